"""The protections that can be taken away, and the test that has to fail without each. Run by tools/controls in a copy."""

import pathlib
import re
import subprocess
import sys

# name; file; what stands there once; what takes its place; the test, as cargo is asked for it
CONTROLS = [
    ("paths resolved in their root", "crates/linux/src/rooted.rs",
     "ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS)", "ResolveFlags::empty()",
     "-p gantry-image --test hostile"),
    ("masked paths", "crates/sandbox/src/posture.rs", "for path in MASKED {", 'for path in [""; 0] {',
     "-p gantry-sandbox --test containers masked"),
    ("read-only paths", "crates/sandbox/src/posture.rs", "for path in READ_ONLY {", 'for path in [""; 0] {',
     "-p gantry-sandbox --test containers masked"),
    ("the filter of system calls", "crates/sandbox/src/posture.rs",
     'for name in ["allowed", "unfilterable"] {', 'for name in [""; 0] {',
     "-p gantry-sandbox --test posture every_dangerous"),
    ("capabilities dropped", "crates/sandbox/src/posture.rs",
     "let kept = if uid == 0 { ROOT } else { INIT };", "let kept = if uid == u32::MAX { INIT } else { ROOT };",
     "-p gantry-sandbox --test containers rights"),
    ("nothing mounted over the runtime's own mounts", "crates/sandbox/src/inside.rs",
     "own.is_some() && own == device(target).ok()", "own.is_none() && own == device(target).ok()",
     "-p gantry-sandbox --test posture nothing_is_mounted"),
    ("blobs checked against their digests", "crates/blobs/src/lib.rs", "if expected == found {",
     "if expected == found || true {", "-p gantry-image --test remote"),
    ("manifests of other registries bounded", "crates/image/src/pull.rs", "if text.len() > limit {",
     "if text.len() > limit * 1000 {", "-p gantry-image --test remote"),
    ("records sealed", "crates/store/src/sqlite/seal.rs",
     "if row.get::<_, i64>(5)? == of_entry(&entry, lease.map(LeaseId)) {",
     "if row.get::<_, i64>(5)? == of_entry(&entry, lease.map(LeaseId)) || true {", "-p gantry-store --test file"),
    ("a host named once", "crates/router/src/headers.rs", "if named.next().is_some() {", "if false {",
     "-p gantry-router --test hostile an_instance_gets"),
    ("an HTTP/2 request's host handed on", "crates/router/src/proxy.rs",
     "parts.headers.insert(HOST, host);", "drop(host);", "-p gantry-router --test hostile what_http2"),
    ("floods of requests ended", "crates/router/src/entry.rs",
     ".max_concurrent_streams(250)", ".max_concurrent_streams(250).max_pending_accept_reset_streams(100_000_000)",
     "-p gantry-router --test floods"),
    ("instances that break off passed over", "crates/router/src/circuit.rs", "const BROKEN_MAX: usize = 5;",
     "const BROKEN_MAX: usize = 5_000;", "-p gantry-router --test traffic an_instance_that_breaks"),
    ("those that wait bounded", "crates/router/src/gate.rs", "const WAITING_MAX: u64 = 1000;",
     "const WAITING_MAX: u64 = 2000;", "-p gantry-router --test traffic a_thousand"),
    ("the rate of requests limited", "crates/router/src/gate.rs", "let enough = self.tokens >= 1.0;",
     "let enough = self.tokens >= -1e9;", "-p gantry-router --test traffic over_a_limit"),
    ("slow start", "crates/router/src/routing.rs", "const LEAST_SHARE: f64 = 0.1;", "const LEAST_SHARE: f64 = 1.0;",
     "-p gantry-router --lib a_new_one"),
    ("five good releases kept", "crates/controller/src/collect.rs", ".take(GOOD_KEPT)", ".take(GOOD_KEPT - 1)",
     "-p gantry-controller --lib the_last_five"),
    ("blobs of use kept", "crates/controller/src/collect.rs", "if !used.contains(&digest) && ", "if ",
     "-p gantry-testbed --test housekeeping what_nothing"),
    ("a full disk refused", "crates/controller/src/collect.rs", "if free >= needed {", "if free > 0 {",
     "-p gantry-testbed --test housekeeping what_would"),
    ("pushed objects checked", "crates/git/src/repository.rs", '("receive.fsckObjects", "true")',
     '("receive.fsckObjects", "false")', "-p gantry-testbed --test git no_tree"),
    ("a push bounded", "crates/git/src/repository.rs", "const PUSH_MAX: u64 = 1 << 30;",
     "const PUSH_MAX: u64 = 1 << 40;", "-p gantry-testbed --test packs a_pack_that_never"),
    ("tokens for administrators alone", "crates/controller/src/http/system.rs",
     "pub(crate) async fn list_tokens(State(server): State<Arc<Server>>, caller: Caller) -> Answer {\n    caller.admin()?;",
     "pub(crate) async fn list_tokens(State(server): State<Arc<Server>>, caller: Caller) -> Answer {\n    caller.read()?;",
     "-p gantry-testbed --test scopes"),
    ("bad bodies the client's fault", "crates/controller/src/http/mod.rs",
     "Problem::invalid(format!(\"the request's body: {error}\"))",
     "Problem::internal(format!(\"the request's body: {error}\"))", "-p gantry-testbed --test fuzz"),
    ("room for more than slow clients", "crates/controller/src/serving.rs",
     "const CONNECTIONS_MAX: usize = 8192;", "const CONNECTIONS_MAX: usize = 500;",
     "-p gantry-testbed --test api slow"),
    ("requests held while their instance is away", "crates/gantry/src/machine.rs",
     "wait: Duration::from_secs(30),", "wait: Duration::from_millis(1),",
     "-p gantry-testbed --test crashes requests_wait"),
    ("what a build made removed", "crates/build/src/compile.rs",
     "if let Err(error) = discard(&spec, &folder).await {", "if let Err(error) = Ok::<(), BuildError>(()) {",
     "-p gantry-testbed --test steps"),
    ("what a launcher was started with is closed", "crates/sandbox/src/launch.rs",
     "if let Err(error) = close_inherited() {", "if let Err(error) = Ok::<(), LinuxError>(drop(close_inherited)) {",
     "-p gantry-sandbox --test posture a_working_folder"),
    ("rights are not handed on", "crates/sandbox/src/posture.rs",
     'clear_ambient_capability_set().tried(|| "clear the ambient rights".to_owned())?;\n'
     "    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };",
     "let _ = clear_ambient_capability_set;\n"
     "    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: kept };",
     "-p gantry-sandbox --test containers"),
    ("launchers run from a read-only copy", "crates/linux/src/mounts.rs",
     "set_attributes(&copy, libc::MOUNT_ATTR_RDONLY, 0)", "set_attributes(&copy, 0, 0)", "-p gantry-linux --lib mounts"),
    ("git bounded in memory", "crates/git/src/repository.rs", "const MEMORY_MAX: u64 = 1 << 30;",
     "const MEMORY_MAX: u64 = 1 << 40;", "-p gantry-testbed --test packs no_pack"),
    ("what a shallow clone claims is dropped", "crates/git/src/repository.rs",
     "Some(opening) => opening.pass(piece),", "Some(_) => piece,", "-p gantry-testbed --test git shallow"),
    ("an upload in order", "crates/controller/src/http/uploads.rs", "if begin == size => Ok(()),",
     "if begin < u64::MAX => Ok(()),", "-p gantry-testbed --test registry the_distribution"),
    ("a lost connection is not waited for", "crates/controller/src/http/uploads.rs", "upload.turn.send_replace(());", "",
     "-p gantry-testbed --test registry an_upload"),
    ("images leave the reserve free", "crates/image/src/layers.rs", "free.saturating_sub(self.reserve)",
     "free.saturating_sub(0)", "-p gantry-image --test layers what_would"),
    ("an answer to a check read to its end", "crates/agent/src/health.rs",
     'whole.map_err(|error| broken("its answer was cut", &error))', 'Ok(drop(whole))',
     "-p gantry-testbed --test broken"),
    ("what listens is looked at", "crates/agent/src/health.rs", "&listening::listening(self.pid)",
     "&listening::listening(-1)", "-p gantry-testbed --test broken"),
    ("killed processes are counted", "crates/agent/src/instance.rs", "recent(|usage| usage.oom_kills)", "recent(|_| 0)",
     "-p gantry-testbed --test broken"),
    ("an instance that begins anew is not ready", "crates/agent/src/instance.rs",
     "self.record.started = true;\n        // The one before may have gone with the machine, which noted nothing.\n"
     "        self.record.ready = false;", "self.record.started = true;", "-p gantry-testbed --test crashes after_a_reboot"),
    ("a release's number is not given twice", "crates/planner/src/lib.rs",
     "app.last_release = app.last_release.max(highest);", "let _ = highest;",
     "-p gantry-testbed --test housekeeping a_backup"),
    ("what runs on another network is begun anew", "crates/agent/src/instance.rs",
     "        if self.is_elsewhere() {\n", "        if false {\n", "-p gantry-testbed --test network what_runs"),
    ("a tag is no branch", "crates/git/src/hook.rs", "commit_itself(update)?.and(next(update)?)", "next(update)?",
     "-p gantry-testbed --test git a_tag"),
    ("a new app has nothing of an old one's", "crates/controller/src/http/apps.rs",
     "crate::collect::forget_app(&server, app.name.clone()).await?;",
     "server.repositories.remove(&app.name).map_err(|error| Problem::internal(error.to_string()))?;",
     "-p gantry-testbed --test crashes what_was_built"),
    ("the last push taken is known to the next", "crates/controller/src/mutations/deploys.rs",
     "deploy.entered.0 + MOVING > base.seen.0 =>", "deploy.entered.0 > u64::MAX - MOVING =>", "-p gantry-controller a_push_that"),
    ("a failed rollback changes no configuration", "crates/planner/src/deploys.rs",
     "DeployState::Promoting => app.app.current = deploy.release,",
     "DeployState::Promoting => { app.app.current = deploy.release; app.app.config = Default::default(); }",
     "-p gantry-planner --test world a_rollback"),
    ("a process that ends is seen before one that is waited for", "crates/planner/src/deploys.rs",
     "    // Before one that is waited for, which may take its time.\n    if let Some(step) = failed(ids, scene) {",
     "    if let (false, Some(step)) = (true, failed(ids, scene)) {", "-p gantry-planner --test world a_process"),
    ("an access log written to its end", "crates/router/src/lib.rs", "    router.access.finish();\n", "",
     "-p gantry-testbed --test soak"),
    ("a volume has one writer", "crates/agent/src/instance.rs", "        self.alone().await?;\n", "",
     "-p gantry-testbed --test housekeeping a_backup"),
    ("what runs unseen ends first", "crates/agent/src/instance.rs",
     "None => end_rest(&self.places.cgroup).await.map_err(|error| error.to_string())?,", "None => {}",
     "-p gantry-testbed --test crashes when_up"),
    ("a commit stays on its branch", "crates/controller/src/git_door.rs",
     "mutations::is_built_on_others(mirror, &name, &base)?;", "let _ = &base;",
     "-p gantry-testbed --test crashes of_two"),
    ("a build is its own deploy's", "crates/controller/src/mutations/builds.rs",
     "(waits && deploy.created == begun.created).then_some(deploy)", "waits.then_some(deploy)",
     "-p gantry-controller --lib a_build_of"),
    ("what goes is not changed before", "crates/controller/src/core.rs",
     "|app: &AppName| !decision.gone.contains(app)", "|_: &AppName| true",
     "-p gantry-testbed --test crashes what_was_built"),
    ("the first of many failures counts", "crates/router/src/circuit.rs",
     "trouble.opened.is_some_and(|opened| asked < opened)", "false", "-p gantry-router --lib a_failed_one"),
    ("what is written is counted", "crates/agent/src/disk.rs", "            count(&agent).await;", "            let _ = count;",
     "-p gantry-testbed --test broken"),
    ("websockets get a farewell", "crates/router/src/tunnel.rs", "to.write_all(&GOING_AWAY).await?;",
     "let _ = GOING_AWAY;", "-p gantry-testbed --test requests no_request"),
    ("an answer in time", "crates/router/src/proxy.rs",
     "let patience = Duration::from_millis(self.route.patience.answer.millis());",
     "let patience = Duration::from_secs(3600);", "-p gantry-testbed --test requests a_role"),
    ("a table that is new is routed by", "crates/router/src/routing.rs",
     "*self.state.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&state);",
     "if !old.known { *self.state.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&state); }",
     "-p gantry-router --test changes"),
    ("half a table swept", "crates/router/src/routing.rs", "        sweep_half_written(path);", "        let _ = sweep_half_written;",
     "-p gantry-testbed --test steps"),
    ("layers half unpacked swept", "crates/image/src/layers.rs",
     "if is_orphaned(&entry.file_name().to_string_lossy()) {", "if false {", "-p gantry-testbed --test steps"),
    ("an acknowledged change is on the disk", "crates/store/src/sqlite/file.rs", '"synchronous", "FULL"', '"synchronous", "OFF"',
     "-p gantry-store --test faults"),
    ("a full disk ends nothing", "crates/store/src/sqlite/write.rs", "Err(error) if is_full(&error) => {",
     "Err(error) if is_full(&error) && false => {", "-p gantry-testbed --test housekeeping a_full_disk"),
    ("a tree bounded", "crates/git/src/hook.rs", "const BYTES_MAX: u64 = 2 << 30;", "const BYTES_MAX: u64 = 2 << 50;",
     "-p gantry-testbed --test git a_tree"),
    ("git's words are shown", "crates/controller/src/http/git.rs", "text/plain; charset=utf-8", "application/json",
     "-p gantry-testbed --test refusals a_bad_repository"),
    ("an old network leaves the bridge", "crates/linux/src/network.rs",
     "if message.header.family == AddressFamily::Inet && !is_own {", "if is_own && false {",
     "-p gantry-testbed --test network what_runs"),
    ("caches of builds bounded", "crates/controller/src/collect.rs", "const CACHE_MAX: u64 = 4 << 30;",
     "const CACHE_MAX: u64 = 4 << 50;", "-p gantry-testbed --test housekeeping caches"),
    ("repositories packed", "crates/git/src/repository.rs", '"gc.autoPackLimit=50"', '"gc.autoPackLimit=0"',
     "-p gantry-git --test tidy"),
    ("what cannot be removed is tried again", "crates/agent/src/records.rs",
     "Ok(gantry_linux::tree::remove(&self.folder)?)", "Ok(drop(gantry_linux::tree::remove(&self.folder)))",
     "-p gantry-testbed --test crashes what_cannot_be_removed"),
    ("what cannot be killed is tried again", "crates/agent/src/instance.rs",
     "tokio::time::sleep(STUCK).await;", "std::future::pending::<()>().await; let _ = STUCK;",
     "-p gantry-testbed --test crashes what_cannot_be_killed"),
    ("what ignores its signal is killed", "crates/agent/src/instance.rs", "            if Instant::now() >= deadline {\n                let why = format!(\"it did not",
     "            if false {\n                let why = format!(\"it did not", "-p gantry-testbed --test crashes an_application_that_ignores"),
    ("what crashes is started again without a server", "crates/agent/src/instance.rs",
     "        let _ = tokio::time::timeout(pause, told_to_stop(&mut self.wanted)).await;",
     "        let _ = pause;\n        self.changed().await;", "-p gantry-testbed --test crashes without_the_server"),
    ("the host's root left", "crates/sandbox/src/inside.rs",
     'unmount(".", UnmountFlags::DETACH).tried(|| "leave the host\'s root".to_owned())?;', "",
     "-p gantry-sandbox --test posture no_path"),
    ("a check ends in time", "crates/agent/src/health.rs", "let timeout = Duration::from_secs(u64::from(self.health().timeout.0));",
     "let timeout = Duration::from_secs(3600);", "-p gantry-testbed --test broken"),
    ("what is left running is told", "crates/init/src/reaper.rs", "if leaves_something() {", "if false && leaves_something() {",
     "-p gantry-testbed --test broken"),
    ("logs bounded", "crates/init/src/log.rs", "if self.written > 0 && self.written + line.len() as u64 > self.limit {",
     "if false {", "-p gantry-testbed --test broken"),
    ("what is sent after a refusal is read", "crates/controller/src/serving.rs", "while patience.as_mut().poll(cx).is_pending() {",
     "while false && patience.as_mut().poll(cx).is_pending() {", "-p gantry-testbed --test api whoever"),
    ("what was never let go is begun again", "crates/agent/src/instance.rs",
     "self.adopt().filter(|container| self.known && container.was_let_go())", "self.adopt().filter(|_| self.known)",
     "-p gantry-testbed --test crashes what_never_ran"),
]


def run(command):
    return subprocess.run(command, shell=True, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)


def outcome(name, file, before, after, test):
    path = pathlib.Path(file)
    text = path.read_text()
    if text.count(before) != 1:
        return f"STALE: {file} has {before!r} {text.count(before)} times"
    path.write_text(text.replace(before, after))
    try:
        built = run("RUSTFLAGS=-Awarnings cargo build --quiet --workspace --bins")
        if built.returncode != 0:
            return f"STALE: it does not build\n{built.stderr[-2000:]}"
        tested = run(f"RUSTFLAGS=-Awarnings timeout 900 cargo test --quiet {test.replace('--test', '--no-fail-fast --test')}")
        if "could not compile" in tested.stderr:
            return f"STALE: it does not build\n{tested.stderr[-2000:]}"
        if tested.returncode == 124:
            return "STALE: the test did not end in 15 minutes"
        if not re.search(r"\b[1-9][0-9]* (passed|failed)", tested.stdout):
            return f"STALE: no test ran\n{tested.stderr[-2000:]}"
        return None if tested.returncode != 0 else "the test passes without it"
    finally:
        path.write_text(text)


def main(words):
    wrong = 0
    for control in CONTROLS:
        if words and not any(word in control[0] for word in words):
            continue
        why = outcome(*control)
        wrong += why is not None
        print(f"{'WRONG' if why else 'ok':<6} without: {control[0]}" + (f": {why}" if why else ""), flush=True)
    return 1 if wrong else 0


sys.exit(main(sys.argv[1:]))
