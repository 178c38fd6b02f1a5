//! `gantry machine add` with a real ssh server, on a machine on which nothing of Gantry is installed.

mod cluster;
mod site;

use std::path::Path;
use std::process::Command;

use cluster::{CHECKED, create_app, ready_copies};
use gantry_testbed::{Fleet, Output, program, run};
use site::push_site;

/// Adds a machine over ssh.
fn add(fleet: &Fleet, target: &str, options: &[String], more: &[&str]) -> Output {
    let options = options.iter().flat_map(|option| ["-o", option]);
    let words: Vec<&str> = ["machine", "add", target].into_iter().chain(options).chain(more.iter().copied()).collect();
    fleet.gantry(&words)
}

#[test]
fn a_machine_is_added_over_ssh_and_runs_apps() {
    let mut fleet = Fleet::start(1);
    let (name, options) = fleet.add_with_ssh();
    let root = format!("root@{}", fleet.address(&name));
    let refused = |output: Output, code: &str| {
        assert!(output.status == 1 && output.err.contains(code), "expected {code}: {output:?}")
    };

    // Each obstacle is named, and nothing is installed.
    refused(add(&fleet, &root, &[], &["-o", "Port=2", "-o", "StrictHostKeyChecking=no"]), "E_SSH_FAILED");
    refused(add(&fleet, &root, &[], &["-o", "UserKnownHostsFile=/dev/null"]), "E_SSH_FAILED");
    refused(add(&fleet, &format!("guest@{}", fleet.address(&name)), &options, &[]), "E_ROOT_REQUIRED");
    let foreign = fleet.path(&name, "foreign");
    std::fs::write(&foreign, foreign_program()).expect("written");
    refused(add(&fleet, &root, &options, &["--program", foreign.to_str().expect("text")]), "E_WRONG_ARCHITECTURE");
    let option = fleet.gantry(&["machine", "add", "--", "-oProxyCommand=id"]);
    assert_eq!(option.status, 2, "{option:?}");
    assert!(!fleet.path(&name, "over/usr/local/bin/gantry").exists());

    // A program that does not run there replaces nothing.
    let mut broken = foreign_program();
    broken[18] = if cfg!(target_arch = "x86_64") { 62 } else { 183 };
    std::fs::write(&foreign, broken).expect("written");
    refused(add(&fleet, &root, &options, &["--program", foreign.to_str().expect("text")]), "E_REMOTE_STEP_FAILED");
    assert!(!fleet.path(&name, "over/usr/local/bin/gantry").exists());

    let added = add(&fleet, &root, &options, &["--label", "disk=ssd"]).good();
    assert!(added.out.contains(&format!("machine {name} has joined as agent and is ready")), "{added:?}");
    fleet.wait_until_ready(&fleet.names());
    refused(add(&fleet, &root, &options, &[]), "E_MACHINE_IS_MEMBER");

    let shop = create_app(&fleet, "shop", &format!("{CHECKED}, placement: {{ labels: {{ disk: 'ssd' }} }}"));
    push_site(&shop, "one");
    assert_eq!(ready_copies(&fleet, "shop").into_values().collect::<Vec<_>>(), std::slice::from_ref(&name));
    for machine in fleet.names() {
        let page = fleet.curl(&machine, "shop").good().out;
        assert!(page.starts_with("one"), "{machine}: {page}");
    }
}

/// A release tarball with the program under test.
fn tarball(folder: &Path) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tools/package");
    let mut package = Command::new(script);
    package.arg("--program").arg(program("gantry")).arg("tarball").arg(folder);
    run(package).good().out.trim().to_owned()
}

#[test]
fn a_machine_is_added_with_a_release_tarball() {
    let mut fleet = Fleet::start(1);
    let (name, options) = fleet.add_with_ssh();
    let root = format!("root@{}", fleet.address(&name));
    let folder = tempfile::tempdir().expect("a folder");
    let tarball = tarball(folder.path());

    // A tarball that was cut installs nothing.
    let cut = folder.path().join("cut.tar.gz");
    let content = std::fs::read(&tarball).expect("read");
    std::fs::write(&cut, &content[..content.len() / 2]).expect("written");
    let refused = add(&fleet, &root, &options, &["--program", cut.to_str().expect("text")]);
    assert!(refused.status == 1 && refused.err.contains("E_FILE_UNREADABLE"), "{refused:?}");
    assert!(!fleet.path(&name, "over/usr/local/bin/gantry").exists());

    let settings = std::fs::read_to_string(fleet.path(&name, "gantry.toml")).expect("read");
    let added = add(&fleet, &root, &options, &["--program", &tarball]).good();
    assert!(added.out.contains(&format!("machine {name} has joined as agent and is ready")), "{added:?}");
    let installed = |file: &str| fleet.path(&name, "over").join(file);
    let unit = std::fs::read_to_string(installed("usr/local/lib/systemd/system/gantry.service")).expect("the unit");
    assert!(unit.contains("ExecStart=/usr/local/bin/gantry up"), "{unit}");
    for file in ["man/man1/gantry.1.gz", "bash-completion/completions/gantry", "doc/gantry/README.md"] {
        assert!(installed("usr/local/share").join(file).exists(), "{file}");
    }
    let kept = std::fs::read_to_string(installed("etc/gantry/gantry.toml")).expect("read");
    assert_eq!(kept, settings, "the machine's settings were replaced");
}

/// The head of a program for another architecture.
fn foreign_program() -> Vec<u8> {
    let mut program = vec![0; 64];
    program[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    (program[16], program[18]) = (2, if cfg!(target_arch = "x86_64") { 183 } else { 62 });
    program
}
