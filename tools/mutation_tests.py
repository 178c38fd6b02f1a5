"""The mutation tests: each row removes one protection and names the test that must fail without it.

tools/mutation-tests runs the rows in a copy of the source. `--check` runs no test: it reports each row whose quoted source
text does not occur exactly once, and each row whose test does not exist."""

import pathlib
import re
import subprocess
import sys

# name; file; source text, which occurs exactly once; replacement; arguments of `cargo test`; text that the failing
# test must print, where the test covers several properties
MUTATIONS = [
    ("paths resolved in their root", "crates/linux/src/rooted.rs",
     "ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS)", "ResolveFlags::empty()",
     "-p gantry-image --test hostile"),
    ("masked paths", "crates/sandbox/src/posture.rs", "for path in MASKED {", 'for path in [""; 0] {',
     "-p gantry-sandbox --test containers masks_paths"),
    ("read-only paths", "crates/sandbox/src/posture.rs", "for path in READ_ONLY {", 'for path in [""; 0] {',
     "-p gantry-sandbox --test containers masks_paths"),
    ("the filter of system calls", "crates/sandbox/src/posture.rs",
     "for filter in filters {", "for filter in &filters[2..] {",
     "-p gantry-sandbox --test posture refuses_every_dangerous"),
    ("capabilities dropped", "crates/sandbox/src/posture.rs",
     "let kept = if uid == 0 { ROOT } else { INIT };", "let kept = if uid == u32::MAX { INIT } else { ROOT };",
     "-p gantry-sandbox --test containers drops_capabilities"),
    ("nothing mounted over the runtime's own mounts", "crates/sandbox/src/inside.rs",
     "Ok(self.0.contains(&device))", "Ok(self.0.is_empty() && self.0.contains(&device))",
     "-p gantry-sandbox --test posture refuses_mounts"),
    ("blobs checked against their digests", "crates/blobs/src/lib.rs", "if expected == found {",
     "if expected == found || true {", "-p gantry-image --test remote"),
    ("manifests of other registries bounded", "crates/image/src/pull.rs", "if text.len() > limit {",
     "if text.len() > limit * 1000 {", "-p gantry-image --test remote"),
    ("records sealed", "crates/store/src/sqlite/checksum.rs",
     "if row.get::<_, i64>(5)? == of_entry(&entry, lease.map(LeaseId)) {",
     "if row.get::<_, i64>(5)? == of_entry(&entry, lease.map(LeaseId)) || true {", "-p gantry-store --test file"),
    ("a host named once", "crates/router/src/headers.rs", "if named.next().is_some() {", "if false {",
     "-p gantry-router --test hostile forwards_only"),
    ("an HTTP/2 request's host handed on", "crates/router/src/exchange/forward.rs",
     "parts.headers.insert(HOST, host);", "drop(host);", "-p gantry-router --test hostile translates_no"),
    ("floods of requests ended", "crates/router/src/listener.rs",
     ".max_concurrent_streams(250)", ".max_concurrent_streams(250).max_pending_accept_reset_streams(100_000_000)",
     "-p gantry-router --test floods"),
    ("instances that break off passed over", "crates/router/src/routes/circuit.rs", "const BROKEN_MAX: usize = 5;",
     "const BROKEN_MAX: usize = 5_000;", "-p gantry-router --test traffic opens_the_circuit"),
    ("slow uploads collected", "crates/router/src/exchange/buffer.rs", "if most == 0 || asks", "if true || asks",
     "-p gantry-router --test bodies buffers_a_slow"),
    ("the rest of an upload read", "crates/router/src/client/body.rs", "drop(runtime.spawn(linger(rest)));", "drop((runtime, rest));",
     "-p gantry-router --test bodies delivers_an_early"),
    ("no protocol that carries requests", "crates/router/src/exchange/upgrade.rs", "named && !refused", "named && (refused || !refused)",
     "-p gantry-router --test traffic passes_other"),
    ("trailers that route dropped", "crates/router/src/trailers.rs", "trailers.remove(name);", "drop(name);",
     "-p gantry-router --test bodies passes_allowed"),
    ("those that wait bounded", "crates/router/src/routes/admission.rs", "const WAITING_MAX: u64 = 1000;",
     "const WAITING_MAX: u64 = 2000;", "-p gantry-router --test traffic queues_at_most"),
    ("the rate of requests limited", "crates/router/src/routes/admission.rs", "let enough = self.tokens >= 1.0;",
     "let enough = self.tokens >= -1e9;", "-p gantry-router --test traffic refuses_requests_over"),
    ("open websockets counted", "crates/router/src/exchange/respond.rs", "(self.entry, chosen, self.admitted);", "(self.entry, chosen, drop(self.admitted));",
     "-p gantry-router --test traffic counts_an_open"),
    ("slow start", "crates/router/src/routes/target.rs", "const LEAST_SHARE: f64 = 0.1;", "const LEAST_SHARE: f64 = 1.0;",
     "-p gantry-router --lib gives_a_new"),
    ("five good releases kept", "crates/controller/src/collect/releases.rs", ".take(GOOD_KEPT)", ".take(GOOD_KEPT - 1)",
     "-p gantry-controller --lib keeps_the_last_five"),
    ("blobs of use kept", "crates/controller/src/collect/blobs.rs", "if !used.contains(&digest) && ", "if ",
     "-p gantry-testbed --test housekeeping what_nothing"),
    ("a full disk refused", "crates/controller/src/disk_reserve.rs", "if free >= needed {", "if free > 0 {",
     "-p gantry-testbed --test housekeeping what_would"),
    ("pushed objects checked", "crates/git/src/layout.rs", '("receive", "fsckObjects", "true")',
     '("receive", "fsckObjects", "false")', "-p gantry-testbed --test git no_tree"),
    ("a push bounded", "crates/git/src/repository.rs", "const PUSH_MAX: u64 = 1 << 30;",
     "const PUSH_MAX: u64 = 1 << 40;", "-p gantry-testbed --test packs a_pack_that_never"),
    ("tokens for administrators alone", "crates/controller/src/http/system.rs",
     "pub(crate) async fn list_tokens(State(server): State<Arc<Server>>, caller: Caller) -> HttpResult {\n    caller.admin()?;",
     "pub(crate) async fn list_tokens(State(server): State<Arc<Server>>, caller: Caller) -> HttpResult {\n    caller.read()?;",
     "-p gantry-testbed --test scopes"),
    ("bad bodies the client's fault", "crates/controller/src/http/mod.rs",
     "|error| invalid_request(format!(\"the request's body: {error}\"))",
     "|error| Problem::internal(format!(\"the request's body: {error}\"))", "-p gantry-testbed --test fuzz"),
    ("room for more than slow clients", "crates/controller/src/connections.rs",
     "const CONNECTIONS_MAX: usize = 8192;", "const CONNECTIONS_MAX: usize = 500;",
     "-p gantry-testbed --test api slow"),
    ("requests held while their instance is away", "crates/gantry/src/machine.rs",
     "wait: Duration::from_secs(30),", "wait: Duration::from_millis(1),",
     "-p gantry-testbed --test crashes requests_wait"),
    ("a changed file newer than what was made before", "crates/build/src/times.rs",
     "committed.max(EARLIEST).min(now).max(after)", "committed.max(EARLIEST).min(now)",
     "-p gantry-build --lib a_changed_file"),
    ("folders of the base stay as they are", "crates/build/src/source.rs",
     "Some(Looked::Folder { path, .. }) => {", "Some(Looked::Folder { path, .. }) if path.starts_with(\"nowhere\") => {",
     "-p gantry-build --lib folders_of_the_base"),
    ("what a build made removed", "crates/agent/src/workload/transient.rs",
     "            workload.discard(|_| {}).await;\n", "            let _ = &workload;\n",
     "-p gantry-testbed --test failpoints"),
    ("what a launcher was started with is closed", "crates/sandbox/src/launch.rs",
     "if let Err(error) = close_inherited() {", "if let Err(error) = Ok::<(), LinuxError>(drop(close_inherited)) {",
     "-p gantry-sandbox --test posture refuses_a_working_folder"),
    ("rights are not handed on", "crates/sandbox/src/posture.rs",
     'clear_ambient_capability_set().with_action(|| "clear the ambient capabilities".to_owned())?;\n'
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
    ("an answer to a check read to its end", "crates/agent/src/health/http.rs",
     'body.map_err(|error| self.broken("the response was cut short", &error))?', 'body.unwrap_or_default()',
     "-p gantry-testbed --test broken", "--- closes-in-the-body"),
    ("what listens is looked at", "crates/agent/src/health/mod.rs",
     "listening::listening_sockets(self.container.pid().unwrap_or_default())", "listening::listening_sockets(-1)", "-p gantry-testbed --test broken", "--- binds-loopback"),
    ("killed processes are counted", "crates/agent/src/instance/end.rs", "recent(|usage| usage.oom_kills)", "recent(|_| 0)",
     "-p gantry-testbed --test broken", "--- leaks-at-start"),
    ("an instance that begins anew is not ready", "crates/agent/src/instance/start.rs",
     "        self.record.ready = false;\n        (self.record.begun", "        (self.record.begun", "-p gantry-testbed --test crashes after_a_reboot"),
    ("a release's number is not given twice", "crates/planner/src/lib.rs",
     "app.last_release = app.last_release.max(highest);", "let _ = highest;",
     "-p gantry-testbed --test housekeeping a_backup"),
    ("what runs on another network is begun anew", "crates/agent/src/instance/start.rs",
     "        if self.is_on_old_network() {\n", "        if false {\n", "-p gantry-testbed --test network what_runs"),
    ("a tag is no branch", "crates/git/src/hook/pre_receive.rs", 'found.kind.as_deref() == Some("commit")', "true",
     "-p gantry-testbed --test git a_tag"),
    ("a new app has nothing of an old one's", "crates/controller/src/http/apps.rs",
     "crate::collect::forget_app(&server, app.name.clone()).await?;",
     "server.repositories.remove(&app.name).map_err(|error| Problem::internal(error.to_string()))?;",
     "-p gantry-testbed --test crashes what_was_built"),
    ("the last push taken is known to the next", "crates/admission/src/push.rs",
     "matches!(deploy.state, Held | Done | Draining)", "matches!(deploy.state, Draining)", "-p gantry-admission after_an_accepted"),
    ("a failed rollback changes no configuration", "crates/planner/src/deploys.rs",
     "DeployState::Promoting => app.app.current = deploy.release,",
     "DeployState::Promoting => { app.app.current = deploy.release; app.app.config = Default::default(); }",
     "-p gantry-planner --test world a_rollback"),
    ("a process that ends is seen before one that is waited for", "crates/planner/src/deploys.rs",
     "    if let Some(step) = failed(ids, input) {",
     "    if let (false, Some(step)) = (true, failed(ids, input)) {", "-p gantry-planner --test world an_exit"),
    ("an access log written to its end", "crates/router/src/lib.rs", "    router.access.finish();\n", "",
     "-p gantry-testbed --test soak"),
    ("a volume has one writer", "crates/agent/src/instance/start.rs", "        self.wait_until_sole_copy().await?;\n", "",
     "-p gantry-testbed --test housekeeping a_backup"),
    ("what runs unseen ends first", "crates/agent/src/workload/mod.rs",
     "None => kill_rest(&self.paths.cgroup).await,", "None => Ok(drop(kill_rest)),",
     "-p gantry-testbed --test crashes when_up"),
    ("a commit stays on its branch", "crates/admission/src/push.rs",
     "match contains(commit) {", "match contains(commit).or(Some(true)) {",
     "-p gantry-testbed --test crashes of_two"),
    ("a build is its own deploy's", "crates/admission/src/builds.rs",
     "(waits && deploy.created == begun.created).then_some(deploy)", "waits.then_some(deploy)",
     "-p gantry-admission the_outcome_of_a_build"),
    ("a retirement without its routes is repeated", "crates/planner/src/instances.rs",
     "InstanceGoal::Retire { since, .. } if leaves_routes(id, routes, input) =>", "InstanceGoal::Retire { since, .. } if false =>",
     "-p gantry-planner --test rename a_written_retirement"),
    ("acknowledgements of lost records do not count", "crates/planner/src/input.rs",
     "if lowest.0 < revision.max(head.floor) {", "if lowest.0 < revision {",
     "-p gantry-planner --test rename an_acknowledgement_of_lost"),
    ("hosts move in one transaction", "crates/planner/src/lib.rs",
     "Some(other) if input.renamed(other) == Some(app) => pairs.push(vec![app, other]),",
     "Some(other) if input.renamed(other) == Some(app) => pairs.extend([vec![app], vec![other]]),",
     "-p gantry-planner --test rename the_hosts_move"),
    ("what goes is not changed before", "crates/controller/src/core/step.rs",
     "|app: &AppName| !gone.contains(app)", "|_: &AppName| true",
     "-p gantry-testbed --test crashes what_was_built"),
    ("the first of many failures counts", "crates/router/src/routes/circuit.rs",
     "trouble.opened.is_some_and(|opened| asked < opened)", "false", "-p gantry-router --lib opens_after"),
    ("what is written is counted", "crates/agent/src/disk.rs", "            check_usage(&agent).await;", "            let _ = check_usage;",
     "-p gantry-testbed --test broken", "--- fills-the-disk"),
    ("websockets get a farewell", "crates/router/src/exchange/tunnel.rs", "to.write_all(&GOING_AWAY).await?;",
     "let _ = GOING_AWAY;", "-p gantry-testbed --test requests no_request"),
    ("an answer in time", "crates/router/src/exchange/attempt.rs",
     "let timeout = Duration::from_millis(self.route.timeouts.response.millis());",
     "let timeout = Duration::from_secs(3600);", "-p gantry-testbed --test requests a_role"),
    ("a table that is new is routed by", "crates/router/src/routes/store.rs",
     "*self.state.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&state);",
     "if !old.known { *self.state.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&state); }",
     "-p gantry-router --test changes"),
    ("half a table swept", "crates/router/src/routes/store.rs", "        gantry_ledger::remove_unfinished(path);", "",
     "-p gantry-testbed --test failpoints"),
    ("layers half unpacked swept", "crates/image/src/layers.rs",
     "if is_orphaned(&entry.file_name().to_string_lossy()) {", "if false {", "-p gantry-testbed --test failpoints"),
    ("an acknowledged change is on the disk", "crates/store/src/sqlite/file.rs", '"synchronous", "FULL"', '"synchronous", "OFF"',
     "-p gantry-store --test faults"),
    ("a full disk ends nothing", "crates/store/src/sqlite/write.rs", "Err(error) => match refusal(&error, &path) {",
     "Err(error) => match refusal(&error, &path).filter(|_| false) {", "-p gantry-testbed --test housekeeping a_full_disk"),
    ("a read-only disk ends nothing", "crates/store/src/sqlite/mod.rs", "if path.exists() && !is_writable(path) {",
     "if false && !is_writable(path) {", "-p gantry-testbed --test disk"),
    ("a clock that went back holds up no deploy", "crates/planner/src/lib.rs", "deploy.entered = deploy.entered.min(now);",
     "let _ = deploy.entered.min(now);", "-p gantry-planner --test world wall_clock_jumps_change_no_bake"),
    ("a drain counts from what was seen", "crates/planner/src/input.rs", "self.now.since(since.max(self.observed.began))",
     "self.now.since(since)", "-p gantry-planner --test world wall_clock_jumps_change_no_drain"),
    ("a newer program asked first", "crates/gantry/src/up.rs", "newer.ask(&arguments(upgrade::COMMAND, machine)?).await?;",
     "let _ = arguments(upgrade::COMMAND, machine)?;", "-p gantry-testbed --test clock"),
    ("leases of another boot are over", "crates/store/src/sqlite/lease.rs", "SELECT id FROM leases WHERE expires <= ?1 OR boot <> ?2",
     "SELECT id FROM leases WHERE expires <= ?1 AND ?2 <> ''", "-p gantry-store --test file ends_leases_of"),
    ("a tree bounded", "crates/git/src/hook/git.rs", "const BYTES_MAX: u64 = 2 << 30;", "const BYTES_MAX: u64 = 2 << 50;",
     "-p gantry-testbed --test git a_tree"),
    ("no silent response during an upload", "crates/controller/src/http/git.rs", "let first = match stream.next().await {",
     "let first = match None::<std::io::Result<Bytes>> {", "-p gantry-testbed --test pushes the_branch"),
    ("git's words are shown", "crates/controller/src/http/git.rs", "text/plain; charset=utf-8", "application/json",
     "-p gantry-testbed --test refusals a_bad_repository"),
    ("an old network leaves the bridge", "crates/linux/src/network.rs",
     "if message.header.family == AddressFamily::Inet && !is_own {", "if is_own && false {",
     "-p gantry-testbed --test network what_runs"),
    ("caches of builds bounded", "crates/agent/src/builds/cache.rs", "const CACHE_MAX: u64 = 4 << 30;",
     "const CACHE_MAX: u64 = 4 << 50;", "-p gantry-testbed --test housekeeping caches"),
    ("git's refs synced", "crates/git/src/layout.rs", '("core", "fsync", "all")', '("core", "fsync", "none")',
     "-p gantry-testbed --test power what_was"),
    ("a new repository synced", "crates/git/src/layout.rs", "gantry_ledger::sync_tree(&fresh)?;", "",
     "-p gantry-testbed --test power what_was"),
    ("repositories packed", "crates/git/src/repository.rs", '"gc.autoPackLimit=50"', '"gc.autoPackLimit=0"',
     "-p gantry-git --test tidy"),
    ("what cannot be removed is tried again", "crates/agent/src/records.rs",
     "Ok(gantry_linux::tree::remove(&self.folder)?)", "Ok(drop(gantry_linux::tree::remove(&self.folder)))",
     "-p gantry-testbed --test crashes what_cannot_be_removed"),
    ("what cannot be killed is tried again", "crates/agent/src/instance/end.rs",
     "tokio::time::sleep(REMOVAL_RETRY).await;", "std::future::pending::<()>().await; let _ = REMOVAL_RETRY;",
     "-p gantry-testbed --test crashes what_cannot_be_killed"),
    ("what ignores its signal is killed", "crates/agent/src/instance/end.rs", "            if Instant::now() >= deadline {\n                let why = format!(\"did not",
     "            if false {\n                let why = format!(\"did not", "-p gantry-testbed --test crashes an_application_that_ignores"),
    ("what crashes is started again without a server", "crates/agent/src/instance/mod.rs",
     "        let _ = tokio::time::timeout(pause, stop_wanted(&mut self.wanted)).await;",
     "        let _ = pause;\n        stop_wanted(&mut self.wanted).await;", "-p gantry-testbed --test crashes without_the_server"),
    ("the host's root left", "crates/sandbox/src/inside.rs",
     'unmount(".", UnmountFlags::DETACH).with_action(|| "unmount the host\'s root".to_owned())?;', "",
     "-p gantry-sandbox --test posture shows_no_path"),
    ("a check ends in time", "crates/agent/src/health/mod.rs", "let timeout = Duration::from_secs(u64::from(self.health().timeout.0));",
     "let timeout = Duration::from_secs(3600);", "-p gantry-testbed --test broken", "--- hangs-on-its-check"),
    ("what is left running is told", "crates/init/src/reaper.rs", "let left = has_leftover_processes();", "let left = false;",
     "-p gantry-testbed --test broken", "--- compile-leaves-daemons"),
    ("logs bounded", "crates/init/src/log.rs", "if self.written > 0 && self.written + line.len() as u64 > self.limit {",
     "if false {", "-p gantry-testbed --test broken"),
    ("what is sent after a refusal is read", "crates/controller/src/connections.rs", "while linger_timeout.as_mut().poll(cx).is_pending() {",
     "while false && linger_timeout.as_mut().poll(cx).is_pending() {", "-p gantry-testbed --test api whoever"),
    ("what was never let go is begun again", "crates/agent/src/instance/mod.rs",
     "self.workload.container().filter(|container| self.known && container.was_released())",
     "self.workload.container().filter(|_| self.known)",
     "-p gantry-testbed --test crashes what_never_ran"),
    ("a refusal is no answer to a check", "crates/agent/src/health/http.rs",
     "if !status.is_success() && !status.is_redirection() {", "if false {",
     "-p gantry-testbed --test broken", "--- fails-its-check"),
    ("processes that were refused are counted", "crates/agent/src/instance/end.rs", "recent(|usage| usage.refused)", "recent(|_| 0)",
     "-p gantry-testbed --test broken", "--- forks-without-end"),
    ("files without a name are counted", "crates/agent/src/workload/mod.rs",
     "named.fold(nameless, u64::saturating_add)", "{ let _ = nameless; named.fold(0, u64::saturating_add) }",
     "-p gantry-testbed --test broken", "--- fills-the-disk-unseen"),
    ("one file that is as large as may be is told", "crates/agent/src/instance/end.rs",
     "self.agent.disk.is_over(&self.id) || (failed && full)", "self.agent.disk.is_over(&self.id)",
     "-p gantry-testbed --test broken", "--- writes-one-large-file"),
    ("last words are kept", "crates/agent/src/instance/end.rs", "let tail = last_lines(self.workload.paths(), self.record.begun.unwrap_or_default());", "let tail = Vec::new();",
     "-p gantry-testbed --test broken", "--- missing-module"),
    ("an answer has its time", "crates/model/src/role.rs", "REQUEST_TIMEOUT: Seconds = Seconds(60)",
     "REQUEST_TIMEOUT: Seconds = Seconds(20)", "-p gantry-testbed --test broken", "answers-after-29-s"),
    ("what prints without end is told of", "crates/agent/src/instance/check.rs", "self.status.warning = log_warning(self.workload.paths()).or_else(lost);",
     "self.status.warning = lost(); let _ = log_warning;", "-p gantry-testbed --test broken", "it is told"),
    ("what runs on after its signal is told of", "crates/agent/src/instance/end.rs",
     "self.status.failure = Some(why);\n                self.enter_phase(self.status.phase);", "drop(why);",
     "-p gantry-testbed --test broken", "it is told"),
    ("a build that is out of memory is told of", "crates/agent/src/builds/compile.rs", "check_exit(spec, usage.oom_kills > 0, output)?;",
     "check_exit(spec, false, output)?;", "-p gantry-testbed --test broken", "--- compile-eats-memory"),
    ("what a build writes is counted", "crates/agent/src/builds/compile.rs", "due && workload.workload().written(Some(cache), limits.disk).await > limits.disk",
     "false", "-p gantry-testbed --test broken", "--- compile-fills-the-disk"),
    ("a build's status decides", "crates/agent/src/builds/compile.rs", "Some(ExitRecord { code: Some(0), .. }) => return Ok(()),",
     "Some(ExitRecord { code: Some(0 | 3), .. }) => return Ok(()),", "-p gantry-testbed --test broken", "--- compile-fails"),
    ("one that ends later takes its deploy back", "crates/planner/src/deploys.rs",
     "InstancePhase::Exited | InstancePhase::Failed => return failed_or_waiting(id, input),\n                InstancePhase::Unhealthy",
     "InstancePhase::Exited | InstancePhase::Failed if false => return failed_or_waiting(id, input),\n                InstancePhase::Unhealthy",
     "-p gantry-planner --test world a_crash_in"),
    ("a deploy that does not go on ends", "crates/planner/src/deploys.rs",
     "if !exempt && input.now.since(since) >= deadline.millis() {", "if false {", "-p gantry-planner --test world a_deploy_without_progress"),
    ("every router has the table before the old one goes", "crates/planner/src/deploys.rs",
     "Some(behind) => DeployStep::Wait(behind),\n        None => DeployStep::Enter(DeployState::Draining),",
     "Some(behind) if false => DeployStep::Wait(behind),\n        _ => DeployStep::Enter(DeployState::Draining),",
     "-p gantry-planner --test world a_second_release"),
    ("processes bounded", "crates/linux/src/cgroup.rs", 'write(&self.folder("pids").join("pids.max"), &pids)?;',
     'write(&self.folder("pids").join("pids.max"), "500")?;', "-p gantry-sandbox --test posture stops_a_fork_bomb"),
    ("a file bounded", "crates/sandbox/src/posture.rs", "if file.is_some() {", "if false {",
     "-p gantry-sandbox --test posture stops_a_file"),
    ("memory bounded", "crates/linux/src/cgroup.rs", 'write(&folder.join("memory.limit_in_bytes"), &memory)?;',
     "let _ = &memory;", "-p gantry-sandbox --test containers enforces_memory"),
    ("processors bounded", "crates/linux/src/cgroup.rs", 'write(&folder.join("cpu.cfs_quota_us"), &quota.to_string())?;',
     "let _ = &quota;", "-p gantry-sandbox --test posture enforces_the_processor"),
    ("no device of a volume's", "crates/sandbox/src/inside.rs", "write | MountFlags::NOSUID | MountFlags::NODEV)",
     "write | MountFlags::NOSUID)", "-p gantry-sandbox --test posture refuses_a_foreign_device"),
    ("users of its own", "crates/sandbox/src/inside.rs", "if let Some(users) = &users {\n            enter_users(users)?;",
     "if let Some(users) = users.filter(|_| false) {\n            enter_users(&users)?;", "-p gantry-sandbox --test containers"),
    ("the kernel's folders are no links", "crates/linux/src/rooted.rs", "walk(&root, path, OFlags::NOFOLLOW)",
     "walk(&root, path, OFlags::empty())", "-p gantry-sandbox --test containers refuses_a_symlinked"),
    ("a link that turns stays in its root", "crates/linux/src/rooted.rs",
     "ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS)", "ResolveFlags::empty()", "-p gantry-linux --lib rooted"),
    ("each app has users of its own", "crates/agent/src/users.rs", "Ok(Some(FIRST + place * RANGE))",
     "Ok(Some(FIRST + place * 0))", "-p gantry-testbed --test network each_app"),
    ("no way in from other machines", "crates/agent/src/network/rules.rs", "ct state new drop", "ct state new accept",
     "-p gantry-testbed --test network a_container_s_port"),
    ("a published port of the machine's is closed to containers", "crates/agent/src/network/rules.rs",
     "fib daddr type local jump host", "fib daddr type local accept", "-p gantry-testbed --test surroundings what_containers"),
    ("metadata are closed to containers", "crates/agent/src/network/openings.rs", "Ipv4Addr::new(169, 254, 0, 0)",
     "Ipv4Addr::new(169, 253, 0, 0)", "-p gantry-testbed --test surroundings what_containers"),
    ("containers are attached to a new bridge", "crates/agent/src/network/monitor.rs",
     "network::attach(ports, &settings.bridge).await?", "{}", "-p gantry-testbed --test surroundings another_firewall"),
    ("a control group goes with its container", "crates/sandbox/src/container.rs", "match group.remove() {",
     "match Ok::<(), gantry_linux::LinuxError>(()) {", "-p gantry-testbed --test lives"),
    ("attributes of an overlay's own left out", "crates/image/src/unpack.rs", "if may_carry(&name) {", "if true {",
     "-p gantry-image --test hostile attributes"),
    ("a layer is what its image says", "crates/image/src/layers.rs", "if wanted != found {", "if false {",
     "-p gantry-image --test hostile a_layer"),
    ("what a layer becomes is bounded", "crates/image/src/unpack.rs", "if self.bytes > self.bounds.bytes {", "if false {",
     "-p gantry-image --test layers bounds_hold"),
    ("layers that can be mounted", "crates/image/src/manifest.rs", "const LAYERS_MAX: usize = 400;",
     "const LAYERS_MAX: usize = 400_000;", "-p gantry-image --test hostile manifests"),
    ("what was acknowledged is marked", "crates/store/src/sqlite/file.rs", "if revision < acknowledged {", "if false {",
     "-p gantry-store --test file reports_commits_lost"),
    ("a header that was damaged is noticed", "crates/store/src/sqlite/file.rs", "Some([1, 1] | [2, 2]) => {}",
     "Some([0..=255, 0..=255]) => {}", "-p gantry-store --test file detects_every_bit"),
    ("a lost file is not begun anew", "crates/store/src/sqlite/file.rs", ".find(|part| part.exists())", ".find(|_| false)",
     "-p gantry-store --test file refuses_to_replace_a_lost"),
    ("the history of changes bounded", "crates/store/src/sqlite/write.rs", "const HISTORY_MAX: Revision = 10_000;",
     "const HISTORY_MAX: Revision = 10_000_000;", "-p gantry-store --test file bounds_the_history"),
    ("a service that was killed is started again", "crates/gantry/src/up.rs",
     "tokio::time::sleep(self.backoff).await;\n        self.backoff = (self.backoff * 2)",
     "std::future::pending::<()>().await;\n        self.backoff = (self.backoff * 2)",
     "-p gantry-testbed --test crashes killed_services"),
    ("what is run in an instance ends with its agent", "crates/sandbox/src/exec.rs",
     "if looks[1].revents().contains(PollFlags::HUP) {", "if false {", "-p gantry-testbed --test crashes what_somebody"),
    ("bytes that are no text are shown", "crates/relay/src/lib.rs",
     "text: String::from_utf8_lossy(parts.next()?).into_owned()", "text: String::from_utf8(parts.next()?.to_vec()).ok()?",
     "-p gantry-testbed --test broken", '"prints-bytes"'),
    ("streams of a connection bounded", "crates/router/src/listener.rs", ".max_concurrent_streams(250)",
     ".max_concurrent_streams(2500)", "-p gantry-router --test http2", "http2/5.1.2/1"),
    ("one that starts slowly is waited for", "crates/planner/src/deploys.rs", "input.now.since(since) >= deadline.millis() {",
     "input.now.since(since) >= deadline.millis() / 4 {", "-p gantry-testbed --test broken", "--- starts-slowly"),
    ("one that never listens ends its deploy", "crates/planner/src/deploys.rs", "    if !exempt && input.now.since",
     '    if !exempt && !format!("{reason:?}").contains("no port yet") && input.now.since',
     "-p gantry-testbed --test broken", "--- never-binds"),
    ("a compile step ends in time", "crates/agent/src/builds/compile.rs", "if tokio::time::Instant::now() > deadline {", "if false {",
     "-p gantry-testbed --test broken", "--- compile-hangs"),
    ("what is of no use is collected", "crates/controller/src/collect/mod.rs", "        round(&server).await;\n",
     "        let _ = round;\n", "-p gantry-testbed --test housekeeping what_nothing"),
    ("control groups not written from inside", "crates/sandbox/src/cgroupfs.rs",
     "let read_only = INERT | MountAttrFlags::MOUNT_ATTR_RDONLY;", "let read_only = INERT;",
     "-p gantry-sandbox --test containers limits_are_readable"),
    ("no user that means unchanged", "crates/image/src/accounts.rs", "u32::MAX => Err(none),", "u32::MAX if false => Err(none),",
     "-p gantry-image --lib accounts"),
    ("users beyond a container's refused", "crates/image/src/accounts.rs", "USERS.. => Err(", "USERS.. if false => Err(",
     "-p gantry-image --lib accounts"),
    ("dangerous calls named", "crates/sandbox/src/posture.rs", "calls::conditions() {", "calls::conditions().into_iter().take(0) {",
     "-p gantry-sandbox --test posture refuses_every_dangerous"),
    ("a volume in use stays", "crates/agent/src/volumes/mod.rs", "    if users.is_empty() {\n        return Ok(());\n    }\n    let message = format!(\"volume {name} of {app} is in use",
     "    if true {\n        return Ok(());\n    }\n    let message = format!(\"volume {name} of {app} is in use",
     "-p gantry-testbed --test volumes"),
    ("a walk through a volume follows no link", "crates/linux/src/walk.rs",
     "    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;\n    let beneath", "    let flags = OFlags::PATH | OFlags::CLOEXEC;\n    let beneath",
     "-p gantry-linux --lib links_lead_nowhere"),
    ("no device from a volume's archive", "crates/image/src/unpack.rs",
     'EntryType::Char | EntryType::Block => Err(refuse("it is a device")),', "EntryType::Char | EntryType::Block => Ok(()),",
     "-p gantry-image --test layers has_devices"),
    ("a backup keeps its volumes from the agent", "crates/agent/src/volumes/mod.rs", "FlockOperation::NonBlockingLockExclusive",
     "FlockOperation::NonBlockingLockShared", "-p gantry-agent --lib a_backup_keeps"),
    ("data of this machine is replaced only if chosen", "crates/gantry/src/restore_volumes.rs",
     "(true, None) => exist.push(volume),", "(true, None) => plan.place.push(volume),", "-p gantry --bins data_of_this_machine"),
    ("a killed restore knows its volumes", "crates/gantry/src/restore_volumes.rs",
     "self.placed.contains(&placed)", "!self.placed.contains(&placed)", "-p gantry --bins a_killed_restore"),
    ("a damaged blob is pushed again", "crates/controller/src/http/registry.rs",
     "if !server.blobs.is_intact(digest).await.map_err", "if false && !server.blobs.is_intact(digest).await.map_err",
     "-p gantry-testbed --test registry a_push_repairs"),
]


def run(command):
    return subprocess.run(command, shell=True, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)


def outcome(name, file, before, after, test, said=""):
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
        if tested.returncode != 0 and said not in tested.stdout:
            return f"the test fails, and not for this\n{tested.stdout[-2000:]}"
        return None if tested.returncode != 0 else "the test passes without it"
    finally:
        path.write_text(text)


def test_sources(test):
    """The files of the test that a row names, and the filter behind them, if there is one."""
    crate, target, words = re.fullmatch(r"-p gantry(?:-([\w-]+))?(?: --(test \w+|lib|bins))?((?: \w+)?)", test).groups()
    folder = pathlib.Path("crates") / (crate or "gantry")
    if target and target.startswith("test "):
        name = target.removeprefix("test ")
        files = [folder / "tests" / f"{name}.rs", *(folder / "tests" / name).rglob("*.rs")]
    else:
        files = list(folder.rglob("*.rs"))
    return [file for file in files if file.exists()], words.strip()


def stale(name, file, before, after, test, said=""):
    """The reasons why a row can no longer run, without running it."""
    path = pathlib.Path(file)
    found = path.read_text().count(before) if path.exists() else 0
    if found != 1:
        yield f"{file} has {before!r} {found} times"
    files, words = test_sources(test)
    if not files:
        yield f"no such test: {test}"
    elif words and not any(words in source.read_text() or words in source.stem for source in files):
        yield f"no test matches the filter {words!r} of: {test}"


def check():
    wrong = [f"{row[0]}: {why}" for row in MUTATIONS for why in stale(*row)]
    print("\n".join(wrong) or f"{len(MUTATIONS)} mutation tests match the source")
    return 1 if wrong else 0


def main(words):
    wrong = 0
    for mutation in MUTATIONS:
        if words and not any(word in mutation[0] for word in words):
            continue
        why = outcome(*mutation)
        wrong += why is not None
        print(f"{'WRONG' if why else 'ok':<6} without: {mutation[0]}" + (f": {why}" if why else ""), flush=True)
    return 1 if wrong else 0


sys.exit(check() if sys.argv[1:] == ["--check"] else main(sys.argv[1:]))
