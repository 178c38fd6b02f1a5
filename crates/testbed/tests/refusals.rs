//! Refusals: the push fails and names the phase and the cause, and the previous release continues to serve.

mod site;

use gantry_testbed::{Repository, TestCluster};
use site::{SERVER, page, push_site, site};

/// Makes a push that must fail with the `expected` texts.
fn refused(cluster: &TestCluster, repository: &Repository, expected: &[&str]) {
    repository.commit("bad");
    let push = repository.push();
    assert_ne!(push.status, 0, "{push:?}");
    for text in expected {
        assert!(push.err.contains(text), "{text:?} is not in\n{}", push.err);
    }
    assert!(page(cluster, "shop").starts_with("good"), "the previous release does not serve");
    repository.git(&["reset", "--quiet", "--hard", "HEAD~1"]);
}

#[test]
fn a_bad_repository_is_refused_with_its_reason() {
    let cluster = TestCluster::start(&[]);
    let shop = site(&cluster, "shop", 1);
    push_site(&shop, "good");

    shop.write("container/roles.json", "{ web: { command: 'x', helth: {} } }");
    refused(
        &cluster,
        &shop,
        &["build failed: container/roles.json: ", "unknown key \"helth\"; did you mean \"health\"?", "line 1 column"],
    );
    std::fs::remove_file(cluster.path("repository-shop/container/roles.json")).expect("removed");
    refused(&cluster, &shop, &["build failed: the repository names no roles; add container/roles.json"]);
    shop.write("container/base", "nowhere");
    refused(&cluster, &shop, &["build failed in the base image", "there is no base nowhere; existing bases: debian"]);
    shop.write("container/compile", "#!/bin/sh\necho working\necho 'no such gem: rails' >&2\nexit 3\n");
    shop.git(&["add", "--all"]);
    refused(&cluster, &shop, &["build failed in the compile step", "cannot be executed; make it executable"]);
    shop.compile_with("echo working\necho 'no such gem: rails' >&2\nexit 3");
    refused(
        &cluster,
        &shop,
        &["build failed in the compile step: container/compile exited with 3", "no such gem: rails"],
    );

    let other = shop.attempt(&["push", "gantry", "HEAD:feature"]);
    assert!(other.status != 0 && other.err.contains("deployed from main alone"), "{other:?}");
    let removed = shop.attempt(&["push", "gantry", ":main"]);
    assert!(removed.status != 0, "{removed:?}");
    let nobody = cluster.repository("ghost", None);
    nobody.commit("x");
    let push = nobody.push();
    assert!(push.status != 0 && push.err.contains("remote: there is no app ghost"), "{push:?}");
    let address = format!("http://x:nonsense@127.0.0.1:{}/git/shop.git", cluster.api_port());
    let stranger = shop.attempt(&["push", &address, "HEAD:main"]);
    assert!(stranger.status != 0 && stranger.err.contains("remote: this token is not known"), "{stranger:?}");
    assert!(page(&cluster, "shop").starts_with("good"));
}

#[test]
fn reverts_a_failing_application_with_the_reason() {
    let cluster = TestCluster::start(&[]);
    let shop = site(&cluster, "shop", 1);
    push_site(&shop, "good");
    let roles = |command: &str| format!("{{ web: {{ command: '{command}', health: {{ path: '/up', timeout: 1 }} }} }}");

    shop.write("container/roles.json", &roles("no-such-program --now"));
    refused(
        &cluster,
        &shop,
        &[
            "shop.v2.web-1 exited with 127: its command, or the interpreter in the command's first line, was not found in the image",
        ],
    );
    shop.write("server.py", "import a_module_that_is_missing\n");
    refused(&cluster, &shop, &["shop.v3.web-1 exited with 1", "No module named 'a_module_that_is_missing'"]);
    // The instance exits shortly after its first response, when the release is already promoted. The old release
    // takes over at once.
    let ends = "def do_GET(self):\n        import threading\n        threading.Timer(1.2, lambda: os._exit(9)).start()";
    shop.write("server.py", &SERVER.replace("def do_GET(self):", ends));
    refused(&cluster, &shop, &["v4 serves; v1 stands by", "shop.v4.web-1 exited with 9", "v1 serves, as before"]);
    shop.write("server.py", "x = []\nwhile True:\n    x.append('x' * 1000000)\n");
    shop.write(
        "container/roles.json",
        "{ web: { command: 'python3 server.py', memory: '32M', health: { path: '/up' } } }",
    );
    refused(&cluster, &shop, &["shop.v5.web-1 ran out of memory: its limit is 32M; raise `memory` of the role"]);
    shop.write(
        "container/roles.json",
        "{ web: { command: 'python3 server.py', health: { path: '/up' } }, release: 'echo migrating; exit 4' }",
    );
    refused(&cluster, &shop, &["the release step failed: exited with 4", "[E_RELEASE_STEP_FAILED]", "migrating"]);
    let why = cluster.gantry(&["why", "shop"]).good().out;
    assert!(
        why.contains(
            "reverted: the release step failed: exited with 4 (last output: migrating); correct what its output names, \
             or the command of the role `release`; v1 serves"
        ),
        "{why}"
    );

    // These instances never become ready. `gantry why` names the missing condition meanwhile, and `abort` ends the
    // deploy.
    let waits = [
        (
            SERVER.replace("\"0.0.0.0\"", "\"127.0.0.1\""),
            "the application listens only on 127.0.0.1:8080; make it bind 0.0.0.0",
        ),
        (
            SERVER.replace("int(os.environ[\"PORT\"])", "3000"),
            "the application listens on port 3000, not on $PORT, 8080",
        ),
        (SERVER.replace("send_response(200)", "send_response(500)"), "status 500 Internal Server Error"),
    ];
    for (server, expected) in waits {
        shop.write("server.py", &server);
        shop.commit("bad");
        let mut push = shop.push_in_background();
        cluster.wait("it says what it waits for", |cluster| {
            cluster.gantry(&["why", "shop"]).out.contains(expected).then_some(())
        });
        assert!(page(&cluster, "shop").starts_with("good"));
        let _ = cluster.gantry(&["abort", "shop"]).good();
        assert!(!push.wait().expect("git").success());
        shop.git(&["reset", "--quiet", "--hard", "HEAD~1"]);
    }
}

#[test]
fn bad_arguments_are_refused_by_name() {
    let cluster = TestCluster::start(&[]);
    let why = cluster.gantry(&["why", "shop", "web-1"]);
    assert!(why.status == 2 && why.err.contains("for example storefront.v12.web-1"), "{why:?}");
    let long = "a".repeat(300);
    for name in ["..", "a/b", "-rf", "A", &long] {
        let refused = cluster.gantry(&["app", "create", "--", name]);
        assert_eq!(refused.status, 2, "{refused:?}");
        assert!(refused.err.contains("is not an app name"), "{refused:?}");
    }
    let _ = cluster.gantry(&["app", "create", "one", "--host", "shop.example"]).good();
    let taken = cluster.gantry(&["app", "create", "two", "--host", "shop.example"]);
    assert!(taken.status == 1 && taken.err.contains("shop.example belongs to app one already"), "{taken:?}");
    let own = cluster.gantry(&["app", "create", "two", "--host", "one.localhost"]);
    assert!(own.status == 1 && own.err.contains("given to apps by their own names"), "{own:?}");
    let twice = cluster.gantry(&["app", "create", "one"]);
    assert!(twice.status == 1 && twice.err.contains("there is an app one already"), "{twice:?}");
    let dotted = cluster.gantry(&["config", "set", "one", "discovery.type=single-node"]).good();
    assert!(dotted.err.contains("warning: programs find discovery.type, but a shell passes over it"), "{dotted:?}");
    assert_eq!(cluster.gantry(&["config", "get", "one", "discovery.type"]).good().out, "single-node\n");
    for (arguments, status, expected, code) in [
        (vec!["config", "set", "one", "1A=x"], 2, "cannot be the name of an environment variable", "[E_INVALID_"),
        (vec!["config", "set", "one", "a b=x"], 2, "cannot be the name of an environment variable", "[E_INVALID_"),
        (vec!["config", "set", "one", "PORT=1"], 2, "PORT is set by Gantry itself", "[E_RESERVED_VARIABLE]"),
        (vec!["config", "get", "one", "NONE"], 1, "no configuration value NONE", "[E_VARIABLE_NOT_SET]"),
        (vec!["rollback", "one"], 1, "one has no release yet", "[E_NO_RELEASE]"),
        (vec!["promote", "one"], 1, "no held deploy to promote", "[E_NO_HELD_DEPLOY]"),
        (vec!["why", "ghost"], 1, "there is no app ghost", "[E_APP_NOT_FOUND]"),
        (vec!["app", "destroy", "one"], 2, "say --confirm one", "[E_INVALID_ARGUMENTS]"),
        (vec!["deploy", "one", "--image", "x:y"], 1, "there is no image x:y", "[E_IMAGE_NOT_FOUND]"),
        (vec!["deploy", "one", "--picture", "x:y"], 2, "unexpected argument '--picture'", "[E_INVALID_ARGUMENTS]"),
        (vec!["scale", "one"], 2, "required arguments", "[E_INVALID_ARGUMENTS]"),
        (vec!["docs", "zebra"], 1, "there is no page \"zebra\"", "[E_PAGE_NOT_FOUND]"),
        (vec!["base", "create", "b", "--from", "/none"], 1, "cannot read the recipe /none", "[E_FILE_UNREADABLE]"),
    ] {
        let refused = cluster.gantry(&arguments);
        assert!(refused.status == status && refused.err.contains(expected), "{arguments:?}: {refused:?}");
        assert!(refused.err.contains(code), "{arguments:?}: {refused:?}");
    }
}

#[test]
fn stops_a_failing_compile_step() {
    let cluster = TestCluster::start(&["--compile-time", "3", "--compile-memory", "64M"]);
    let shop = site(&cluster, "shop", 1);
    push_site(&shop, "good");
    let compile = |script: &str| {
        shop.compile_with(script);
    };
    compile("echo working; sleep 1000");
    refused(&cluster, &shop, &["build failed in the compile step: container/compile did not end in 3 s", "working"]);
    compile("python3 -c 'x = []\nwhile True: x.append(\"x\" * 1000000)'");
    refused(&cluster, &shop, &["container/compile ran out of memory: a build may use 64M", "[E_COMPILE_FAILED]"]);
    // Processes that the compile step leaves running end with the step, and the image contains no trace of them.
    compile("echo $$ > /app/made; (sleep 1000 &) ; exit 0");
    shop.write("server.py", &SERVER.replace("VERSION", "good, with daemons"));
    shop.commit("daemons");
    let _ = shop.push().good();
    assert!(page(&cluster, "shop").starts_with("good, with daemons"));
}

#[test]
fn refuses_an_impossible_start_with_the_reason() {
    use std::os::unix::process::CommandExt;
    use std::process::Command;
    let mut cluster = TestCluster::start_with_file();
    let program = cluster.path("gantry");
    // `cp` copies the program: a child process of a parallel test could inherit this process's writable file, and the
    // kernel refuses to run a program that is open for writing.
    let copied = Command::new("cp").arg(gantry_testbed::program("gantry")).arg(&program).status();
    assert!(copied.expect("cp").success());
    let public = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(program.parent().expect("a folder"), public).expect("set");
    let run = |uid: u32, arguments: &[&str]| {
        let output = Command::new(&program).args(arguments).uid(uid).current_dir("/").output().expect("gantry");
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let data = cluster.path("data").display().to_string();
    let other = cluster.path("other").display().to_string();
    let taken = format!("127.0.0.1:{}", cluster.http_port());
    let up = ["up", "--run", &other, "--listen", "127.0.0.1:0", "--http"];
    let said = run(65534, &[&up[..], &["127.0.0.1:0", "--data", "/tmp/nobodys"]].concat());
    assert!(said.contains("this needs root") && said.contains("[E_ROOT_REQUIRED]"), "{said}");
    let said = run(0, &[&up[..], &[&taken, "--data", &other]].concat());
    assert!(said.contains(&format!("cannot listen on {taken}; choose another with --http")), "{said}");
    assert!(said.contains("[E_ADDRESS_UNAVAILABLE]"), "{said}");
    let said = run(0, &[&up[..], &["127.0.0.1:0", "--data", &data]].concat());
    assert!(said.contains("another `gantry up` runs with the data folder"), "{said}");
    assert!(said.contains("[E_ALREADY_RUNNING]"), "{said}");

    let open = cluster.path("open");
    std::fs::create_dir(&open).expect("made");
    std::fs::set_permissions(&open, std::os::unix::fs::PermissionsExt::from_mode(0o750)).expect("set");
    let said = run(0, &[&up[..], &["127.0.0.1:0", "--data", &open.display().to_string()]].concat());
    assert!(said.contains("(mode 750), which holds secrets: chmod 700") && !open.join("up.lock").exists(), "{said}");
    assert!(said.contains("[E_DATA_FOLDER_OPEN]"), "{said}");

    cluster.kill_everything();
    let store = cluster.path("data/server/store.db");
    let good = std::fs::read(&store).expect("the store");
    let _ = std::fs::remove_file(cluster.path("data/server/store.db-wal"));
    let server = ["server", "--run", &other, "--data", &data, "--listen", "127.0.0.1:0", "--machine", "m"];
    std::fs::write(&store, &good[..good.len() / 2]).expect("cut");
    let said = run(0, &server);
    assert!(said.contains("store.db is damaged") && said.contains("the file is unchanged"), "{said}");
    assert!(said.contains("[E_STORE_DAMAGED]"), "{said}");
    std::fs::write(&store, b"").expect("emptied");
    let said = run(0, &server);
    assert!(said.contains("store.db is damaged: the file is empty"), "{said}");
}
