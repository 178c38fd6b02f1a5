//! Images that Gantry did not build, as other tools make them: with volumes, several ports, nested indexes and sparse
//! layers.

use std::io::Write;
use std::process::{Command, Stdio};

use gantry_testbed::TestCluster;
use serde_json::{Value, json};

/// Script that pushes an image and prints its digest. The image has the layers of base/debian, optionally one more,
/// and the base's configuration overlaid with `config`. The image lies inside `nested` indexes, each of which also
/// names an attestation and an image for another machine.
const PUSH: &str = r#"
import hashlib, json, sys, urllib.request
task = json.load(sys.stdin)
auth = "Bearer " + task["token"]
def ask(method, path, body=None, kind="application/octet-stream"):
    request = urllib.request.Request(task["url"] + path, data=body, method=method)
    request.add_header("Authorization", auth)
    request.add_header("Content-Type", kind)
    return urllib.request.urlopen(request)
name, tag = task["image"].split(":")
def blob(data):
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    ask("POST", f"/v2/{name}/blobs/uploads/?digest={digest}", data)
    return {"digest": digest, "size": len(data)}
def manifest(value, reference):
    data = json.dumps(value).encode()
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    ask("PUT", f"/v2/{name}/manifests/{reference or digest}", data, value["mediaType"])
    return {"mediaType": value["mediaType"], "digest": digest, "size": len(data)}
oci = "application/vnd.oci.image."
base = json.load(ask("GET", "/v2/base/debian/manifests/latest"))
config = json.load(ask("GET", f"/v2/base/debian/blobs/{base['config']['digest']}"))
layers = base["layers"]
if task["layer"]:
    data = open(task["layer"], "rb").read()
    layers.append({"mediaType": oci + "layer.v1.tar", **blob(data)})
    config["rootfs"]["diff_ids"].append("sha256:" + hashlib.sha256(data).hexdigest())
config["config"] = task["config"]
value = {"schemaVersion": 2, "mediaType": oci + "manifest.v1+json", "layers": layers,
         "config": {"mediaType": oci + "config.v1+json", **blob(json.dumps(config).encode())}}
value.update(task["more"])
if task["config"] == {}:
    value["config"] = {"mediaType": oci + "empty.v1+json", **blob(b"{}")}
levels = task["nested"]
top = manifest(value, tag if levels == 0 else None)
other = dict(value, annotations={"for": "another machine"})
for level in range(levels):
    platform = task["platform"] or {"os": "linux", "architecture": config["architecture"]}
    entries = [dict(manifest(other, None), platform={"os": "unknown", "architecture": "unknown"}),
               dict(manifest(other, None), platform={"os": "linux", "architecture": "s390x"}),
               dict(top, platform=platform)]
    index = {"schemaVersion": 2, "mediaType": oci + "index.v1+json", "manifests": entries}
    top = manifest(index, tag if level == levels - 1 else None)
print(top["digest"])
"#;

/// Image to push.
struct Image<'a> {
    /// Repository and tag, as in `shop:1`.
    name: &'a str,
    config: Value,
    /// Fields laid over the manifest.
    more: Value,
    layer: Option<String>,
    nested: usize,
    platform: Value,
}

impl<'a> Image<'a> {
    fn new(name: &'a str, config: Value) -> Self {
        Self { name, config, more: json!({}), layer: None, nested: 0, platform: Value::Null }
    }

    fn push(self, cluster: &TestCluster) -> String {
        let task = json!({ "url": format!("http://127.0.0.1:{}", cluster.api_port()), "token": cluster.token(),
            "image": self.name, "config": self.config, "more": self.more, "layer": self.layer,
            "nested": self.nested, "platform": self.platform });
        let mut python = Command::new("python3");
        python.args(["-c", PUSH]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = python.spawn().expect("python3");
        child.stdin.take().expect("open").write_all(task.to_string().as_bytes()).expect("written");
        let output = child.wait_with_output().expect("ended");
        assert!(output.status.success(), "{}", self.name);
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

fn lines(cluster: &TestCluster, app: &str) -> usize {
    cluster.curl(&format!("{app}.localhost"), &["--request-target", "/log"]).out.lines().count()
}

#[test]
fn volumes_ports_indexes_and_sparse_layers_of_an_image() {
    let cluster = TestCluster::start(&[]);
    let own = format!("localhost:{}", cluster.api_port());
    for app in ["kept", "ports"] {
        let _ = cluster.gantry(&["app", "create", app]).good();
    }
    // A layer as `tar --sparse` writes it.
    let make = "mkdir -p tree/opt && truncate -s 2M tree/opt/holes && printf end >>tree/opt/holes && \
                tar -cSf layer.tar --format=pax --owner=0 --group=0 -C tree opt && sha256sum <tree/opt/holes | cut -c1-64";
    let made = Command::new("sh").args(["-ec", make]).current_dir(cluster.path("")).output().expect("sh");
    let sum = String::from_utf8_lossy(&made.stdout).trim().to_owned();
    let serve = "mkdir -p /data; date >>/data/log; exec python3 -m http.server 8080 -d /data";
    let config = json!({ "Volumes": { "/data": {} }, "ExposedPorts": { "443/tcp": {}, "8080/tcp": {}, "53/udp": {} },
        "Cmd": ["sh", "-c", serve], "Env": ["PATH=/usr/bin:/bin"] });
    let image = Image {
        layer: Some(cluster.path("layer.tar").display().to_string()),
        nested: 2,
        ..Image::new("kept:1", config)
    };
    let digest = image.push(&cluster);

    // Deploys from the server's own registry address, through two indexes.
    let first = cluster.gantry(&["deploy", "kept", "--image", &format!("{own}/kept:1")]).good();
    for expected in [
        "its port is 8080, of those that it exposes",
        "VOLUME /data of the image does not last",
        &format!("`gantry deploy kept --image {own}/kept:1 --volume data:/data`"),
    ] {
        assert!(first.err.contains(expected), "{expected}: {first:?}");
    }
    let found = cluster.gantry(&["exec", "kept", "--", "sh", "-c", "sha256sum </opt/holes"]).good().out;
    assert!(!sum.is_empty() && found.starts_with(&sum), "{found} {sum}");

    // Applies the remedy, with a reference by tag and digest. The volume persists over a change of configuration, the
    // end of a process, and a rollback to an earlier release.
    let reference = format!("kept:1@{digest}");
    let kept = cluster.gantry(&["deploy", "kept", "--image", &reference, "--volume", "data:/data"]).good();
    assert!(kept.err.contains("Volume data at /data") && !kept.err.contains("does not last"), "{kept:?}");
    assert_eq!(lines(&cluster, "kept"), 1);
    let _ = cluster.gantry(&["config", "set", "kept", "A=1"]).good();
    assert_eq!(lines(&cluster, "kept"), 2);
    // The end of the application may kill the shell, too.
    let killed = cluster.gantry(&["exec", "kept", "--", "sh", "-c", "kill 3"]);
    assert!([0, 137].contains(&killed.status), "{killed:?}");
    cluster.wait("it runs again", |cluster| (lines(cluster, "kept") == 3).then_some(()));
    let back = cluster.gantry(&["rollback", "kept", "v1"]).good();
    assert!(back.err.contains("Volumes of web: data"), "{back:?}");
    assert_eq!(lines(&cluster, "kept"), 4);
    let wrong = cluster.gantry(&["deploy", "kept", "--image", "kept:1", "--volume", "other:/data/"]);
    assert!(wrong.status == 2 && wrong.err.contains("data and other would both be at /data"), "{wrong:?}");

    // No setting names the real port; the remedy does.
    let serve = json!(["python3", "-m", "http.server", "81"]);
    Image::new("ports:1", json!({ "ExposedPorts": { "443/tcp": {}, "0/tcp": {} }, "Cmd": serve })).push(&cluster);
    let remedy = "listens on port 81, not on 443; say so once: `gantry deploy APP --image REF --port 81`";
    std::thread::scope(|scope| {
        let deploy = scope.spawn(|| cluster.gantry(&["deploy", "ports", "--image", "ports:1"]));
        cluster.wait("`why` names the port", |cluster| {
            cluster.gantry(&["why", "ports"]).out.contains(remedy).then_some(())
        });
        let _ = cluster.gantry(&["abort", "ports"]).good();
        assert!(deploy.join().expect("told").status != 0);
    });
    let _ = cluster.gantry(&["deploy", "ports", "--image", "ports:1", "--port", "81"]).good();
    assert!(cluster.curl("ports.localhost", &[]).out.contains("Directory listing"));

    // An image that cannot run is refused with its true kind.
    let sbom = json!({ "artifactType": "application/vnd.example.sbom" });
    Image { more: sbom, ..Image::new("ports:sbom", json!({})) }.push(&cluster);
    let refused = cluster.gantry(&["deploy", "ports", "--image", "ports:sbom"]);
    assert!(refused.err.contains("it is an artifact of type application/vnd.example.sbom"), "{refused:?}");
    let platform = json!({ "os": "linux", "architecture": "riscv64" });
    Image { nested: 1, platform, ..Image::new("ports:foreign", json!({ "Cmd": serve })) }.push(&cluster);
    let refused = cluster.gantry(&["deploy", "ports", "--image", "ports:foreign"]);
    assert!(refused.err.contains("it has images for linux/riscv64, linux/s390x"), "{refused:?}");
    Image { nested: 7, ..Image::new("ports:deep", json!({ "Cmd": serve })) }.push(&cluster);
    let refused = cluster.gantry(&["deploy", "ports", "--image", "ports:deep"]);
    assert!(refused.err.contains("its indexes are nested more than 5 deep"), "{refused:?}");

    // A push names the volumes of its base, except those that a role mounts. An image built from the app's recipe
    // takes its ports and volumes from the recipe.
    Image::new("ports:base", json!({ "Volumes": { "/srv/state": {}, "/srv/more": {} } })).push(&cluster);
    let _ = cluster.gantry(&["base", "import", "stateful", &format!("{own}/ports:base")]).good();
    let _ = cluster.gantry(&["app", "create", "built", "--base", "stateful"]).good();
    let repository = cluster.repository("built", None);
    let serve = "python3 -m http.server $PORT";
    let roles =
        format!("{{ web: {{ command: '{serve}', health: {{ path: '/' }}, volumes: {{ state: '/srv/state' }} }} }}");
    repository.write("container/roles.json", &roles);
    let commit = repository.commit("one");
    let pushed = repository.push().good();
    assert!(pushed.err.contains("VOLUME /srv/more of the image does not last"), "{pushed:?}");
    assert!(pushed.err.contains("`volumes: { more: '/srv/more' }` of a role"), "{pushed:?}");
    assert!(!pushed.err.contains("VOLUME /srv/state"), "{pushed:?}");
    let refused = cluster.gantry(&["deploy", "built", "--image", &format!("built:{commit}"), "--port", "81"]);
    assert!(refused.status == 1 && refused.err.contains("brings its roles"), "{refused:?}");
    environments_are_bounded(&cluster);
}

/// The deploy refuses an environment that the kernel would not pass to a process, with the variable's name and the
/// limit.
fn environments_are_bounded(cluster: &TestCluster) {
    let _ = cluster.gantry(&["app", "create", "large"]).good();
    let value = |name: &str, length: usize| format!("{name}={}", "a".repeat(length));
    let many: Vec<String> = (0..18).map(|number| value(&format!("V{number}"), 120_000)).collect();
    for (environment, expected) in [
        (vec![value("LONG", 140_000)], "build failed: LONG is too long: 140005 bytes"),
        (many, "build failed: the environment and command of web are too long: 21"),
    ] {
        let config = json!({ "Cmd": ["sleep", "1000"], "Env": environment });
        let _ = Image::new("large:1", config).push(cluster);
        let refused = cluster.gantry(&["deploy", "large", "--image", "large:1"]);
        assert!(refused.status == 1 && refused.err.contains(expected), "{refused:?}");
    }
}
