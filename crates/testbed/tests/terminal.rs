//! `gantry exec` and `run` as a user runs them: in a real terminal.

mod site;

use std::process::Command;

use gantry_testbed::{TestCluster, program, run};
use site::{push_site, site};

/// A terminal with a shell, drawn by tmux.
struct Terminal {
    socket: String,
}

impl Terminal {
    fn open(cluster: &TestCluster, columns: u16, rows: u16) -> Self {
        let terminal = Self { socket: cluster.path("tmux").display().to_string() };
        let size = (columns.to_string(), rows.to_string());
        let shell = format!(
            "env GANTRY_URL=http://127.0.0.1:{} GANTRY_TOKEN={} PS1='here: ' sh",
            cluster.api_port(),
            cluster.token()
        );
        terminal.tmux(&["-f", "/dev/null", "new-session", "-d", "-x", &size.0, "-y", &size.1, &shell]);
        terminal.tmux(&["set-option", "status", "off"]);
        terminal.tmux(&["set-option", "window-size", "manual"]);
        terminal.tmux(&["resize-window", "-x", &size.0, "-y", &size.1]);
        terminal
    }

    fn tmux(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("tmux");
        command.args(["-S", &self.socket]).args(arguments);
        run(command).good().out
    }

    fn say(&self, text: &str) {
        self.tmux(&["send-keys", "-l", text]);
        self.tmux(&["send-keys", "Enter"]);
    }

    /// Waits until a line of the screen ends with `expected`. Text typed before the shell reads is echoed before the
    /// prompt, and the output then follows the prompt.
    fn shows(&self, cluster: &TestCluster, expected: &str) {
        cluster.wait(&format!("the screen shows {expected:?}"), |_| {
            let screen = self.tmux(&["capture-pane", "-p", "-J"]);
            screen.lines().any(|line| line.trim_end().ends_with(expected)).then_some(())
        });
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = run({
            let mut command = Command::new("tmux");
            command.args(["-S", &self.socket, "kill-server"]);
            command
        });
    }
}

#[test]
fn a_shell_in_an_instance_is_a_terminal() {
    let cluster = TestCluster::start(&[]);
    let repository = site(&cluster, "shop", 1);
    push_site(&repository, "one");
    let terminal = Terminal::open(&cluster, 91, 31);
    terminal.say(&format!("{} exec shop", program("gantry").display()));
    terminal.say("echo I am $(tty) on $(hostname)");
    terminal.shows(&cluster, "I am /dev/pts/0 on web-1.m");
    terminal.say("stty size");
    terminal.shows(&cluster, "31 91");
    terminal.tmux(&["resize-window", "-x", "77", "-y", "21"]);
    terminal.say("stty size");
    terminal.shows(&cluster, "21 77");
    // An interrupt reaches the process in the instance, not the local command.
    terminal.say("sleep 1000; echo woken with $?");
    cluster.wait("it sleeps", |_| {
        let mut command = Command::new("pgrep");
        command.args(["-f", "^sleep 1000$"]);
        (run(command).status == 0).then_some(())
    });
    terminal.tmux(&["send-keys", "C-c", "echo still $((40 + 2))", "Enter"]);
    terminal.shows(&cluster, "still 42");
    terminal.say("exit 7");
    // Waits for the local prompt: until then, typed text goes to the remote shell.
    terminal.shows(&cluster, "here:");
    terminal.say("echo it ended with $?; stty -a | grep -ow 'ica[n]on'");
    terminal.shows(&cluster, "it ended with 7");
    terminal.shows(&cluster, "icanon");

    terminal.say(&format!("{} run shop -- sh -c 'stty size; exit 3'; echo ran with $?", program("gantry").display()));
    terminal.shows(&cluster, "ran with 3");
}

#[test]
fn a_process_with_a_remaining_child_has_ended() {
    let cluster = TestCluster::start(&[]);
    let repository = site(&cluster, "shop", 1);
    push_site(&repository, "one");
    let begun = std::time::Instant::now();
    let script = "echo before; sleep 300 & echo after; exit 5";
    let output = cluster.gantry(&["exec", "shop", "--", "sh", "-c", script]);
    assert_eq!((output.status, output.out.as_str()), (5, "before\nafter\n"), "{output:?}");
    assert!(begun.elapsed() < std::time::Duration::from_secs(60), "it waited for what was left behind");
    // The output equals the input.
    let size = 3_000_000;
    let command = format!(
        "head -c {size} /dev/zero | tr '\\0' x | GANTRY_URL=http://127.0.0.1:{} GANTRY_TOKEN={} {} exec -i shop -- cat | wc -c",
        cluster.api_port(),
        cluster.token(),
        program("gantry").display()
    );
    let mut shell = Command::new("sh");
    shell.args(["-c", &command]);
    assert_eq!(run(shell).good().out.trim(), size.to_string());
    // `gantry exec` in a loop leaves the loop's input alone, and a piped value is one value.
    let gantry = |script: &str| {
        let mut shell = Command::new("sh");
        let folder = program("gantry").parent().expect("a folder").display().to_string();
        let path = format!("{folder}:{}", std::env::var("PATH").expect("a path"));
        shell.args(["-c", script]).env("PATH", path).env("GANTRY_TOKEN", cluster.token());
        shell.env("GANTRY_URL", format!("http://127.0.0.1:{}", cluster.api_port()));
        run(shell)
    };
    let each = gantry("printf 'a\nb\n' | while read x; do gantry exec shop -- sh -c \"cat; echo $x\"; done").good();
    assert_eq!(each.out, "a\nb\n");
    let each = gantry(
        "printf 'a\nb\n' | while read x; do gantry run shop -- echo $x; done; echo in | gantry run -i shop -- cat",
    );
    assert_eq!(each.good().out, "a\nb\nin\n");
    let two = gantry("printf s | gantry config set shop A=- B=-");
    assert!(two.status == 2 && two.err.contains("A and B would both be read from standard input"), "{two:?}");
    // Hosts and branch of an existing app.
    let asked = |host: &str| cluster.curl("shop.localhost", &["--header", &format!("Host: {host}")]).out;
    assert_eq!(cluster.gantry(&["app", "host", "shop", "www.example.test"]).good().out, "www.example.test\n");
    cluster.wait("the host leads to the app", |_| asked("www.example.test").contains("one").then_some(()));
    assert_eq!(cluster.gantry(&["app", "host", "shop", "--rm", "www.example.test"]).good().out, "");
    cluster.wait("the host leads nowhere", |_| asked("www.example.test").contains("no app").then_some(()));
    let _ = cluster.gantry(&["app", "branch", "shop", "live"]).good();
    repository.commit("two");
    let refused = repository.push();
    assert!(refused.status != 0 && refused.err.contains("live"), "{refused:?}");
    let _ = cluster.gantry(&["app", "branch", "shop", "main"]).good();
    for arguments in ["docs apps", "completions bash", "config set shop A=1 2>&1"] {
        let mut shell = Command::new("bash");
        let head = format!(
            "GANTRY_URL=http://127.0.0.1:{} GANTRY_TOKEN={} {} {arguments} | head -n 1; echo ${{PIPESTATUS[0]}}",
            cluster.api_port(),
            cluster.token(),
            program("gantry").display()
        );
        shell.args(["-c", &head]);
        let output = run(shell).good();
        let (_, status) = output.out.trim_end().rsplit_once('\n').expect("a status");
        assert!(output.err.is_empty() && ["0", "141"].contains(&status), "{arguments}: {output:?}");
    }
}
