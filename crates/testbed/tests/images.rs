//! Images to and from other tools and registries: skopeo, podman, Docker, Debian's docker-registry.

mod site;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use gantry_testbed::{Output, TestCluster, run};
use site::{page, push_site, site};

fn tool(program: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    run(command)
}

#[test]
fn images_come_and_go_through_the_registry() {
    let cluster = TestCluster::start(&[]);
    let repository = site(&cluster, "shop", 1);
    let commit = push_site(&repository, "one");
    let (registry, folder) = (format!("127.0.0.1:{}", cluster.api_port()), cluster.path("image"));
    let token = cluster.token();
    let skopeo = |arguments: &[&str]| drop(tool("skopeo", arguments).good());
    let (credentials, local) = (format!("x:{token}"), format!("oci:{}:it", folder.display()));
    let source = format!("docker://{registry}/shop:{commit}");
    skopeo(&["copy", "--quiet", "--src-tls-verify=false", "--src-creds", &credentials, &source, &local]);
    // The same image as other tools build one: first without a command, then with one.
    let target = format!("docker://{registry}/shop:other");
    for command in ["null", r#"["python3", "/app/server.py"]"#] {
        make_foreign(&folder, command);
        skopeo(&["copy", "--quiet", "--all", "--dest-tls-verify=false", "--dest-creds", &credentials, &local, &target]);
        if command == "null" {
            let refused = cluster.gantry(&["deploy", "shop", "--image", "shop:other"]);
            assert!(refused.status == 1 && refused.err.contains("names no command"), "{refused:?}");
            assert!(page(&cluster, "shop").contains("one"));
        }
    }
    let held = cluster.gantry(&["deploy", "shop", "--image", "shop:other", "--hold"]).good();
    assert!(held.err.contains("v2 is held"), "{held:?}");
    assert!(page(&cluster, "v2.shop").contains("one") && page(&cluster, "shop").contains("one"));
    let promoted = cluster.gantry(&["promote", "shop"]).good();
    assert!(promoted.out.contains("http://shop.localhost"), "{promoted:?}");
    assert!(cluster.gantry(&["app", "show", "shop"]).good().out.contains("v2"));
    let held = cluster.gantry(&["deploy", "shop", "--image", "shop:other", "--hold"]).good();
    assert!(held.err.contains("v3 is held"), "{held:?}");
    let _ = cluster.gantry(&["abort", "shop"]).good();
    assert!(cluster.gantry(&["app", "show", "shop"]).good().out.contains("v2"));
    let blobs = blobs_of(&cluster, "shop:other");
    blobs.iter().for_each(|blob| damage(blob));
    skopeo(&["copy", "--quiet", "--all", "--dest-tls-verify=false", "--dest-creds", &credentials, &local, &target]);
    blobs.iter().for_each(|blob| assert!(is_intact(blob), "skopeo left {} damaged", blob.display()));
    let wrong =
        tool("skopeo", &["copy", "--quiet", "--dest-tls-verify=false", "--dest-creds", "x:wrong", &local, &target]);
    assert!(wrong.status != 0, "a wrong token pushed an image");
}

/// Paths of an image's configuration and layers among the server's blobs; of an index, those of all its images.
fn blobs_of(cluster: &TestCluster, image: &str) -> Vec<PathBuf> {
    let (credentials, source) =
        (format!("x:{}", cluster.token()), format!("docker://127.0.0.1:{}/{image}", cluster.api_port()));
    let raw = tool("skopeo", &["inspect", "--raw", "--tls-verify=false", "--creds", &credentials, &source]).good().out;
    let manifest: serde_json::Value = serde_json::from_str(&raw).expect("JSON");
    if let Some(images) = manifest["manifests"].as_array() {
        let repository = image.split([':', '@']).next().expect("a name");
        let named = images.iter().map(|image| format!("{repository}@{}", image["digest"].as_str().expect("a digest")));
        return named.flat_map(|image| blobs_of(cluster, &image)).collect();
    }
    let layers = manifest["layers"].as_array().expect("layers").iter();
    let digests =
        layers.chain([&manifest["config"]]).map(|descriptor| descriptor["digest"].as_str().expect("a digest"));
    let path = |digest: &str| {
        let hex = digest.trim_start_matches("sha256:");
        cluster.path(&format!("data/server/blobs/sha256/{}/{hex}", &hex[..2]))
    };
    digests.map(path).collect()
}

/// Changes a byte in the middle of a blob.
fn damage(blob: &Path) {
    let mut bytes = std::fs::read(blob).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(blob, bytes).expect("written");
    assert!(!is_intact(blob));
}

/// Reports whether a blob has the digest in its name.
fn is_intact(blob: &Path) -> bool {
    let sum = tool("sha256sum", &[&blob.display().to_string()]).good().out;
    blob.file_name().is_some_and(|name| sum.starts_with(&*name.to_string_lossy()))
}

/// Removes the recipe from the image in an OCI layout. Sets a command as a Dockerfile would, or none.
fn make_foreign(folder: &Path, command: &str) {
    let script = r#"
import hashlib, json, pathlib, sys
folder = pathlib.Path(sys.argv[1])
blob = lambda digest: folder / "blobs/sha256" / digest.split(":")[1]
def put(value):
    text = json.dumps(value).encode()
    digest = "sha256:" + hashlib.sha256(text).hexdigest()
    blob(digest).write_bytes(text)
    return digest, len(text)
index = json.loads((folder / "index.json").read_text())
top = json.loads(blob(index["manifests"][0]["digest"]).read_text())
manifest = json.loads(blob(top["manifests"][0]["digest"]).read_text()) if "manifests" in top else top
config = json.loads(blob(manifest["config"]["digest"]).read_text())
config["config"]["Labels"].pop("dev.gantry.recipe", None)
config["config"].update({"Cmd": json.loads(sys.argv[2]), "ExposedPorts": {"8080/tcp": {}}})
manifest["config"]["digest"], manifest["config"]["size"] = put(config)
digest, size = put(manifest)
# Under an index, as builders for several machines push it.
entry = {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": size,
         "platform": {"architecture": config["architecture"], "os": "linux"}}
kind = "application/vnd.oci.image.index.v1+json"
digest, size = put({"schemaVersion": 2, "mediaType": kind, "manifests": [entry]})
index["manifests"][0].update({"mediaType": kind, "digest": digest, "size": size})
(folder / "index.json").write_text(json.dumps(index))
"#;
    let output = Command::new("python3").args(["-c", script]).arg(folder).arg(command).output().expect("python3");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // A graceful stop first: a Docker daemon then unmounts its file systems.
        let _ = tool("kill", &[&self.0.id().to_string()]);
        let _ = self.0.wait();
    }
}

fn start(program: &str, arguments: &[&str], log: &Path) -> Running {
    let log = std::fs::File::create(log).expect("a log");
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(log.try_clone().expect("shared")).stderr(log);
    Running(command.spawn().unwrap_or_else(|error| panic!("{program}: {error}; `./test` installs it")))
}

#[test]
fn docker_and_podman_pull_and_push() {
    let cluster = TestCluster::start(&[]);
    let repository = site(&cluster, "shop", 1);
    let commit = push_site(&repository, "one");
    let (registry, token) = (format!("127.0.0.1:{}", cluster.api_port()), cluster.token());
    let built = format!("{registry}/shop:{commit}");

    let storage = [("--root", "podman"), ("--runroot", "podman-run")];
    let mut podman: Vec<String> = vec!["--storage-driver=vfs".into()];
    for (flag, folder) in storage {
        podman.extend([flag.to_owned(), cluster.path(folder).display().to_string()]);
    }
    let podman = |arguments: &[&str]| {
        let all: Vec<&str> = podman.iter().map(String::as_str).chain(arguments.iter().copied()).collect();
        tool("podman", &all)
    };
    let credentials = format!("x:{token}");
    let _ = podman(&["pull", "--quiet", "--tls-verify=false", "--creds", &credentials, &built]).good();
    let pushed = format!("{registry}/shop:by-podman");
    let _ = podman(&["push", "--quiet", "--tls-verify=false", "--creds", &credentials, &built, &pushed]).good();
    let _ = podman(&["rmi", "--all", "--force"]).good();

    let socket = format!("unix://{}", cluster.path("docker.sock").display());
    let path = |name: &str| cluster.path(name).display().to_string();
    let (data, exec, pid) = (path("docker-data"), path("docker-exec"), path("docker.pid"));
    let daemon = ["--data-root", &data, "--exec-root", &exec, "--pidfile", &pid, "--host", &socket];
    let daemon = [&daemon[..], &["--bridge=none", "--iptables=false", "--storage-driver=vfs"]].concat();
    let running = start("dockerd", &daemon, &cluster.path("docker.log"));
    let config = path("docker-config");
    let docker = |arguments: &[&str]| tool("docker", &[&["--host", &socket, "--config", &config], arguments].concat());
    cluster.wait("the Docker daemon answers", |_| (docker(&["version"]).status == 0).then_some(()));
    let login =
        format!("echo {token} | docker --config {config} --host {socket} login -u x --password-stdin {registry}");
    let _ = tool("sh", &["-c", &login]).good();
    let _ = docker(&["pull", "--quiet", &built]).good();
    let again = format!("{registry}/shop:by-docker");
    let _ = docker(&["tag", &built, &again]).good();
    let _ = docker(&["push", "--quiet", &again]).good();
    // An index made by Docker's own client.
    let list = format!("{registry}/shop:list");
    let create = docker(&["manifest", "create", "--insecure", &list, &again]);
    assert!(create.status == 0, "{create:?}");
    let _ = docker(&["manifest", "push", "--insecure", &list]).good();
    let inspected = docker(&["manifest", "inspect", "--insecure", &list]).good();
    assert!(inspected.out.contains("manifest.list.v2+json") && inspected.out.contains("\"amd64\""), "{inspected:?}");
    let held = cluster.gantry(&["deploy", "shop", "--image", "shop:list", "--hold"]).good();
    assert!(held.err.contains("is held"), "{held:?}");
    // An image made by Docker that names no user.
    let _ = cluster.gantry(&["app", "create", "plain"]).good();
    let plain = format!("{registry}/plain:one");
    let root = path("plain-root");
    let import = format!(
        "mkdir -p {root}/bin && cp /bin/busybox {root}/bin/httpd && tar -C {root} -c . | docker --host {socket} import \
         --change 'CMD [\"/bin/httpd\",\"-f\",\"-p\",\"8080\",\"-h\",\"/bin\"]' - {plain}"
    );
    let _ = tool("sh", &["-c", &import]).good();
    let _ = docker(&["push", "--quiet", &plain]).good();
    let _ = cluster.gantry(&["deploy", "plain", "--image", "plain:one"]).good();
    let blobs = blobs_of(&cluster, "plain:one");
    blobs.iter().for_each(|blob| damage(blob));
    let _ = docker(&["push", "--quiet", &plain]).good();
    blobs.iter().for_each(|blob| assert!(is_intact(blob), "docker left {} damaged", blob.display()));
    drop(running);
    // Without shared mounts the daemon bind-mounts its folder on itself, and leaves the mount behind.
    let _ = tool("umount", &["--recursive", &data]);

    let tags = tool(
        "skopeo",
        &["list-tags", "--tls-verify=false", "--creds", &credentials, &format!("docker://{registry}/shop")],
    );
    let tags = tags.good().out;
    assert!(tags.contains("by-podman") && tags.contains("by-docker"), "{tags}");
}

#[test]
fn an_image_of_another_registry_is_deployed_and_becomes_a_base() {
    let cluster = TestCluster::start(&[]);
    let repository = site(&cluster, "shop", 1);
    let commit = push_site(&repository, "one");
    let own = format!("127.0.0.1:{}", cluster.api_port());
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
    let other = format!("127.0.0.1:{port}");
    let settings = format!(
        "version: 0.1\nstorage: {{ filesystem: {{ rootdirectory: {} }} }}\nhttp: {{ addr: {other} }}\n",
        cluster.path("registry").display()
    );
    std::fs::write(cluster.path("registry.yml"), settings).expect("written");
    let yml = cluster.path("registry.yml").display().to_string();
    let _registry = start("docker-registry", &["serve", &yml], &cluster.path("registry.log"));
    cluster.wait("the registry answers", |_| {
        (tool("curl", &["-sf", &format!("http://{other}/v2/")]).status == 0).then_some(())
    });
    let folder = cluster.path("image");
    let local = format!("oci:{}:it", folder.display());
    let (credentials, source) = (format!("x:{}", cluster.token()), format!("docker://{own}/shop:{commit}"));
    let _ =
        tool("skopeo", &["copy", "--quiet", "--src-tls-verify=false", "--src-creds", &credentials, &source, &local])
            .good();
    make_foreign(&folder, r#"["python3", "/app/server.py"]"#);
    let target = format!("docker://{other}/team/shop:v7");
    let _ = tool("skopeo", &["copy", "--quiet", "--all", "--dest-tls-verify=false", &local, &target]).good();

    let _ = cluster.gantry(&["app", "create", "bought"]).good();
    let deployed = cluster.gantry(&["deploy", "bought", "--image", &format!("{other}/team/shop:v7")]).good();
    assert!(deployed.err.contains("Fetching") && deployed.out.contains("http://bought.localhost"), "{deployed:?}");
    assert!(page(&cluster, "bought").contains("one"));
    assert!(cluster.gantry(&["releases", "bought"]).good().out.contains(&format!("{other}/team/shop:v7")));
    let imported = cluster.gantry(&["base", "import", "theirs", &format!("{other}/team/shop:v7")]).good();
    assert!(imported.out.starts_with("theirs sha256:"), "{imported:?}");
    assert!(cluster.gantry(&["base", "ls"]).good().out.contains("team/shop:v7"));
    // With two bases, an app that names no base stays on the base of its last build. A new app must choose a base.
    push_site(&repository, "two");
    let _ = cluster.gantry(&["app", "create", "new"]).good();
    let new = cluster.repository("new", Some("hello-python"));
    new.commit("one");
    let refused = new.push();
    let expected = "new names no base, and several exist (debian, theirs); choose one with `gantry app base new BASE`";
    assert!(refused.status != 0 && refused.err.contains(expected), "{refused:?}");

    // An app builds on the base that the app was assigned. A base in use cannot be removed; any other base can.
    let nowhere = cluster.gantry(&["app", "base", "new", "nowhere"]);
    assert!(nowhere.status == 1 && nowhere.err.contains("there is no base nowhere"), "{nowhere:?}");
    let _ = cluster.gantry(&["app", "base", "new", "debian"]).good();
    let pushed = new.push();
    assert!(pushed.status == 0, "{pushed:?}");
    let kept = cluster.gantry(&["base", "rm", "debian"]);
    assert!(
        kept.status == 1 && kept.err.contains("is still the base of new, shop") && kept.err.contains("gantry app base"),
        "{kept:?}"
    );
    let _ = cluster.gantry(&["base", "rm", "theirs"]).good();
    let again = cluster.gantry(&["base", "rm", "theirs"]);
    assert!(again.status == 1 && again.err.contains("there is no base theirs"), "{again:?}");
    assert!(!cluster.gantry(&["base", "ls"]).good().out.contains("theirs"));

    // A reference to the cloud's own registry by one of the server's addresses needs no pull and no password.
    let _ = cluster.gantry(&["base", "import", "own", &format!("{own}/shop:{commit}")]).good();
    let token = cluster.gantry(&["token", "create", "shop-ci", "--deploy", "shop"]).good().out.trim().to_owned();
    let by_name = format!("localhost:{}/shop:{commit}", cluster.api_port());
    let deployed = cluster.gantry_as(&token, &["deploy", "shop", "--image", &by_name, "--hold"]);
    assert!(deployed.status == 0 && !deployed.err.contains("Fetching"), "{deployed:?}");
    let refused = cluster.gantry_as(&token, &["deploy", "shop", "--image", &format!("{own}/bought:v1")]);
    assert!(refused.status == 1 && refused.err.contains("needs the scope: read of bought"), "{refused:?}");
    let missing = cluster.gantry(&["base", "import", "none", &format!("{other}/team/none:v1")]);
    assert!(
        missing.status == 1 && missing.err.contains("none:v1 cannot be pulled: the registry answered 404"),
        "{missing:?}"
    );
    let nowhere = cluster.gantry(&["base", "import", "none", "127.0.0.1:1/team/none:v1"]);
    assert!(nowhere.status == 1 && nowhere.err.contains("cannot be reached"), "{nowhere:?}");
    // A deploy token must not reach other services on the server's loopback.
    let token = cluster.gantry(&["token", "create", "ci", "--deploy", "bought"]).good().out.trim().to_owned();
    let refused = cluster.gantry_as(&token, &["deploy", "bought", "--image", &format!("{other}/team/shop:v7")]);
    assert!(refused.status == 1 && refused.err.contains("needs the scope"), "{refused:?}");
}
