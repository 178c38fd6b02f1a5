//! The environment that an application finds in its container: the same as under Docker with default options.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use gantry_testbed::{Output, TestCluster, run};

/// Script that makes an OCI archive of the examples' base with one more layer. Arguments: the base's archive, the new
/// archive, the keys of the image's configuration, and a Python list of the layer's entries. An entry has path, mode,
/// owner, text or target, and kind: `file`, `link`, or `low` (a copy of the base's Python with a capability).
const IMAGE: &str = r#"
import hashlib, io, json, os, sys, tarfile
base, target, config, entries = sys.argv[1:]
archive = tarfile.open(base)
blobs = {member.name: member for member in archive.getmembers()}
read = lambda digest: archive.extractfile(blobs["blobs/sha256/" + digest.split(":")[1]]).read()
out, made = tarfile.open(target, "w"), {}
def put(name, data):
    member = tarfile.TarInfo(name)
    member.size = len(data)
    out.addfile(member, io.BytesIO(data))
def blob(data):
    digest = hashlib.sha256(data).hexdigest()
    put("blobs/sha256/" + digest, data)
    return "sha256:" + digest
layer = io.BytesIO()
with tarfile.open(fileobj=layer, mode="w", format=tarfile.PAX_FORMAT) as tar:
    for path, mode, owner, content, kind in eval(entries):
        member = tarfile.TarInfo(path)
        member.mode, member.uid, member.gid = mode, owner, owner
        data = content.encode()
        if kind == "link":
            member.type, member.linkname, data = tarfile.SYMTYPE, content, b""
        if kind == "low":
            data = open(os.path.realpath("/usr/bin/python3"), "rb").read()
            value = bytes.fromhex(content).ljust(20, b"\0")
            member.pax_headers = {"SCHILY.xattr.security.capability": value.decode("latin-1")}
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
layer = layer.getvalue()
index = json.loads(archive.extractfile(blobs["index.json"]).read())
manifest = json.loads(read(index["manifests"][0]["digest"]))
image = json.loads(read(manifest["config"]["digest"]))
for descriptor in manifest["layers"]:
    put("blobs/sha256/" + descriptor["digest"].split(":")[1], read(descriptor["digest"]))
digest = blob(layer)
manifest["layers"].append({"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": len(layer)})
image["rootfs"]["diff_ids"].append(digest)
image["config"] = json.loads(config)
text = json.dumps(image).encode()
manifest["config"]["digest"], manifest["config"]["size"] = blob(text), len(text)
text = json.dumps(manifest).encode()
index["manifests"] = [{"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": blob(text), "size": len(text)}]
put("index.json", json.dumps(index).encode())
put("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
out.close()
"#;

fn archive(cluster: &TestCluster, name: &str, config: &str, entries: &str) -> PathBuf {
    let target = cluster.path(name);
    let base = std::env::var("GANTRY_TEST_EXAMPLES_BASE").expect("a base; `./test` makes it");
    let mut python = Command::new("python3");
    python.args(["-c", IMAGE, &base]).arg(&target).args([config, entries]).stdin(Stdio::null());
    let _ = run(python).good();
    target
}

/// Pushes an image into the registry and deploys the image as `app`.
fn deploy(cluster: &TestCluster, app: &str, config: &str, entries: &str) -> Output {
    let _ = cluster.gantry(&["app", "create", app]).good();
    let archive = archive(cluster, &format!("{app}.tar"), config, entries);
    let mut skopeo = Command::new("skopeo");
    skopeo.args(["copy", "--quiet", "--dest-tls-verify=false", "--dest-creds", &format!("x:{}", cluster.token())]);
    skopeo.arg(format!("oci-archive:{}", archive.display()));
    skopeo.arg(format!("docker://127.0.0.1:{}/{app}:1", cluster.api_port())).stdin(Stdio::null());
    let _ = run(skopeo).good();
    cluster.gantry(&["deploy", app, "--image", &format!("{app}:1")])
}

/// Output of a shell script in an instance of `app`.
fn inside(cluster: &TestCluster, app: &str, script: &str) -> String {
    cluster.gantry(&["exec", app, "--", "/bin/sh", "-c", script]).good().out
}

#[test]
fn an_application_gets_the_environment_of_docker() {
    let cluster = TestCluster::start(&[]);
    a_pushed_application(&cluster);
    an_image_s_own_user(&cluster);
    numbers_beyond_a_container_s(&cluster);
}

/// An application on a base without user 1000, like many imported bases.
fn a_pushed_application(cluster: &TestCluster) {
    let accounts = r#"[("etc/passwd", 0o644, 0, "root:x:0:0::/root:/bin/sh\n", "file"), ("etc/group", 0o644, 0, "root:x:0:\n", "file")]"#;
    let archive = archive(cluster, "plain.tar", "{}", accounts);
    let _ = cluster.gantry(&["base", "import", "plain", archive.to_str().expect("text")]).good();
    let _ = cluster.gantry(&["app", "create", "own", "--base", "plain"]).good();
    let own = cluster.repository("own", None);
    own.write(
        "container/roles.json",
        r#"{ web: { command: 'echo up >/dev/stdout && exec python3 -m http.server $PORT', memory: '256M', cpu: 0.5, disk: '50M' },
             worker: 'eval "$START"', ticker: 'command sleep 1000', release: 'echo released >/dev/stderr' }"#,
    );
    own.write("app.json", r#"{ "env": { "START": "echo begun >/dev/stderr; exec sleep 1000" } }"#);
    own.compile_with("echo compiled by $(whoami) in $(id -gn) >/dev/stdout");
    own.commit("own");
    let pushed = own.push().good().all();
    assert!(pushed.contains("compiled by app in app"), "{pushed}");

    let logs = cluster.gantry(&["logs", "own"]).good().out;
    assert!(logs.contains("up") && logs.contains("begun") && logs.contains("released"), "{logs}");
    assert_eq!(
        inside(cluster, "own", "id; echo $HOME; node -e 'console.log(os.userInfo().username)'"),
        "uid=1000(app) gid=1000(app) groups=1000(app)\n/app\napp\n"
    );
    assert_eq!(inside(cluster, "own", "echo $HOSTNAME; hostname; cat /etc/hostname"), "web-1.m\n".repeat(3));
    let limits = "cd /sys/fs/cgroup; cat memory.max 2>/dev/null || cat memory/memory.limit_in_bytes; \
                  cat cpu.max 2>/dev/null || echo $(cat cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us)";
    assert_eq!(inside(cluster, "own", limits), "268435456\n50000 100000\n");
    // The heap limit follows the role's memory; from the machine's memory the limit would be 2 GiB or more.
    let heap = inside(cluster, "own", "node -p 'v8.getHeapStatistics().heap_size_limit >> 20'");
    assert!(heap.trim().parse::<u32>().expect("mebibytes") < 300, "{heap}");

    assert_eq!(inside(cluster, "own", "head -c 100M /dev/zero >/dev/shm/x && stat -c %s /dev/shm/x"), "104857600\n");
    assert_eq!(
        inside(cluster, "own", "rm /dev/shm/x; truncate -s 10G /tmp/map && stat -c %s /tmp/map"),
        "10737418240\n"
    );
    for streams in ["echo named >/dev/stdout", "echo named >/proc/self/fd/1", "echo named | cat /dev/stdin"] {
        assert_eq!(inside(cluster, "own", streams), "named\n", "{streams}");
        let once = cluster.gantry(&["run", "own", "--", "/bin/sh", "-c", streams]).good();
        assert_eq!(once.out, "named\n", "{streams}: {once:?}");
    }
    let refused = inside(
        cluster,
        "own",
        "(echo 1 >/sys/fs/cgroup/cgroup.procs || echo 1 >/sys/fs/cgroup/pids/pids.max) 2>&1; true",
    );
    assert!(refused.contains("Read-only file system"), "{refused}");
    // A sparse file counts with its allocated size, so the copy keeps running.
    assert!(cluster.gantry(&["ps", "own"]).good().out.contains("web-1"));
}

/// An image whose files are links into another folder, whose program has a capability, and whose working folder is
/// missing.
fn an_image_s_own_user(cluster: &TestCluster) {
    let entries = r#"[
        ("nix/store/p/passwd", 0o644, 0, "root:x:0:0::/root:/bin/sh\nweb:x:1500:1501::/home/web:/bin/sh\n", "file"),
        ("nix/store/p/group", 0o644, 0, "web:x:1501:\nmedia:x:44:web\nlogs:x:45:other, web\n", "file"),
        ("etc/passwd", 0o777, 0, "/nix/store/p/passwd", "link"),
        ("etc/group", 0o777, 0, "../nix/store/p/group", "link"),
        ("home/web/.keep", 0o644, 1500, "", "file"),
        ("home/far", 0o640, 1000680000, "far", "file"),
        # cap_net_bind_service=ep, and cap_sys_admin=ep, which no container has.
        ("usr/local/bin/low", 0o755, 0, "0100000200040000", "low"),
        ("usr/local/bin/high", 0o755, 0, "0100000200002000", "low"),
    ]"#;
    let command = "echo up >/dev/stdout; cd; touch /srv/none/own && exec /usr/local/bin/low -m http.server 80";
    let config = format!(
        r#"{{"User": "web", "WorkingDir": "/srv/../srv/none/", "ExposedPorts": {{"80/tcp": {{}}}}, "Cmd": ["sh", "-c", "{command}"]}}"#
    );
    let deployed = deploy(cluster, "foreign", &config, entries);
    assert_eq!(deployed.status, 0, "{}\n{}", deployed.all(), cluster.gantry(&["logs", "foreign"]).all());
    assert!(cluster.gantry(&["logs", "foreign"]).good().out.contains("up"));
    assert_eq!(
        inside(cluster, "foreign", "id -u; id -g; id -G; echo $HOME; pwd"),
        "1500\n1501\n1501 44 45\n/home/web\n/srv/none\n"
    );
    assert_eq!(
        inside(cluster, "foreign", "high -c 'print(1)'; grep CapEff /proc/self/status"),
        "1\nCapEff:\t0000000000000000\n"
    );
    // An owner outside the container's user range shows as nobody (65534).
    assert_eq!(inside(cluster, "foreign", "stat -c %u:%g /home/far"), "65534:65534\n");
    let once = cluster.gantry(&["run", "foreign", "--", "/bin/sh", "-c", "id -G; touch ok; pwd; echo $HOME"]).good();
    assert_eq!(once.out, "1501 44 45\n/srv/none\n/home/web\n", "{once:?}");
}

fn numbers_beyond_a_container_s(cluster: &TestCluster) {
    let entries =
        r#"[("etc/passwd", 0o644, 0, "root:x:0:0::/root:/bin/sh\nfar:x:100000:100000::/:/bin/sh\n", "file")]"#;
    for (app, user) in [("number", "1000680000"), ("name", "far")] {
        let config = format!(r#"{{"User": "{user}", "Cmd": ["python3", "-m", "http.server", "8080"]}}"#);
        let refused = deploy(cluster, app, &config, entries);
        assert!(refused.status != 0 && refused.err.contains("beyond the 65,536 that a container has"), "{refused:?}");
        assert!(refused.err.contains(user), "{refused:?}");
    }
}
