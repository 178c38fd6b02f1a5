//! Contents of real repositories, from the push to the running app: file times, links, encodings, submodules, the
//! base's environment.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use gantry_testbed::{Output, Repository, TestCluster, run};
use serde_json::{Value, json};

/// Shell version of `make`: builds each page only when its source is newer.
const BUILD: &str = r#"set -e
mktemp >/dev/null
test "$(tool) $TOOL_HOME $HOME" = "ok /opt/t /app"
p=$CACHE_DIR/page; [ -e $p ] && ! [ page.src -nt $p ] || { echo made; cp page.src $p; }
q=$CACHE_DIR/same; [ -e $q ] && ! [ same.src -nt $q ] || { echo remade; cp same.src $q; }
cp $p page.html
if make --version >/dev/null 2>&1; then make -f build.mk; cp $CACHE_DIR/made.html .; else cp $p made.html; fi
python3 -m zipfile -c all.zip page.src same.src REVISION
printf 'progress 10\rprogress 100\r\n\033[31mred\033[0m\n'
"#;

/// The rest of the line after `mark`, which must occur exactly once in the text.
fn after<'a>(text: &'a str, mark: &str) -> &'a str {
    let (_, rest) = text.split_once(mark).unwrap_or_else(|| panic!("no {mark:?} in {text}"));
    rest.lines().next().unwrap_or_default().trim()
}

/// A copy of the base's archive with additional environment variables in its configuration.
fn base_with(cluster: &TestCluster, env: &[&str]) -> PathBuf {
    let archive = PathBuf::from(std::env::var("GANTRY_TEST_BASE").expect("a base"));
    let folder = cluster.path("base");
    std::fs::create_dir(&folder).expect("made");
    let tar = |arguments: &[&str], archive: &Path| {
        let mut tar = Command::new("tar");
        tar.arg("-C").arg(&folder).arg(arguments[0]).arg(archive).args(&arguments[1..]);
        run(tar).good()
    };
    let _ = tar(&["-xf"], &archive);
    let blob = |digest: &Value| folder.join("blobs").join(digest.as_str().expect("a digest").replace(':', "/"));
    let read = |path: PathBuf| -> Value { serde_json::from_slice(&std::fs::read(path).expect("read")).expect("JSON") };
    // Stores a blob under its new digest.
    let keep = |value: &Value, of: &mut Value| {
        let bytes = serde_json::to_vec(value).expect("JSON");
        std::fs::write(folder.join("blob"), &bytes).expect("written");
        let mut sum = Command::new("sha256sum");
        sum.arg(folder.join("blob"));
        let digest = run(sum).good().out.split(' ').next().unwrap_or_default().to_owned();
        std::fs::rename(folder.join("blob"), folder.join("blobs/sha256").join(&digest)).expect("moved");
        of["digest"] = json!(format!("sha256:{digest}"));
        of["size"] = json!(bytes.len());
    };
    let mut index = read(folder.join("index.json"));
    let mut manifest = read(blob(&index["manifests"][0]["digest"]));
    let mut config = read(blob(&manifest["config"]["digest"]));
    config["config"]["Env"] = json!(env);
    keep(&config, &mut manifest["config"]);
    keep(&manifest, &mut index["manifests"][0]);
    std::fs::write(folder.join("index.json"), index.to_string()).expect("written");
    let made = cluster.path("base.tar");
    let _ = tar(&["-cf", "."], &made);
    made
}

/// Commits all changes with the given date.
fn commit_at(repository: &Repository, folder: &Path, date: &str) -> String {
    repository.git(&["add", "--all"]);
    let mut git = Command::new("git");
    git.args(["-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "--quiet", "--message", date]);
    git.env("GIT_COMMITTER_DATE", date).current_dir(folder);
    let _ = run(git).good();
    repository.git(&["rev-parse", "HEAD"]).out.trim().to_owned()
}

fn shop(cluster: &TestCluster) -> Repository {
    let _ = cluster.gantry(&["app", "create", "shop", "--base", "lang"]).good();
    let shop = cluster.repository("shop", None);
    let folder = cluster.path("repository-shop");
    shop.compile_with("");
    std::fs::create_dir(folder.join("bin")).expect("made");
    std::fs::rename(folder.join("container/compile"), folder.join("bin/build")).expect("moved");
    // Linked, without `#!`, and with a byte order mark as some editors write.
    shop.write("bin/build", BUILD);
    shop.write("deploy/roles", "\u{feff}{ web: { command: 'python3 -m http.server $PORT', health: { path: '/up' } } }");
    symlink("../bin/build", folder.join("container/compile")).expect("a link");
    symlink("../deploy/roles", folder.join("container/roles.json")).expect("a link");
    shop.write("container/files/tmp/seed", "x");
    shop.write("container/files/bin/tool", "#!/bin/sh\necho ok\n");
    let program = folder.join("container/files/bin/tool");
    std::fs::set_permissions(program, std::fs::Permissions::from_mode(0o755)).expect("set");
    // The machine's own make, if installed and able to run on the base.
    shop.write("build.mk", "$(CACHE_DIR)/made.html: page.src\n\tcp page.src $@\n");
    if Path::new("/usr/bin/make").exists() {
        std::fs::create_dir_all(folder.join("container/files/usr/bin")).expect("made");
        std::fs::copy("/usr/bin/make", folder.join("container/files/usr/bin/make")).expect("copied");
    }
    shop.write(
        ".gitattributes",
        "[attr]wide working-tree-encoding=UTF-16LE\n*.ps1 text working-tree-encoding=UTF-16LE eol=crlf\n*.wide text wide\n\
         *.id ident\n*.crlf text eol=crlf\n*.old crlf\n",
    );
    let wide: Vec<u8> = "echo gr\u{fc}n\r\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    std::fs::write(folder.join("a.ps1"), &wide).expect("written");
    std::fs::write(folder.join("b.wide"), &wide).expect("written");
    for (path, text) in [("c.id", "$Id$\n"), ("d.crlf", "one\ntwo\n"), ("e.old", "one\n"), ("up", "up")] {
        shop.write(path, text);
    }
    shop.write("a.bin", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1048576\n");
    shop.write("page.src", "first\n");
    shop.write("same.src", "same\n");
    shop.git(&["add", "--all"]);
    let module = format!("160000,{},lib", "5".repeat(40));
    shop.git(&["update-index", "--add", "--cacheinfo", &module]);
    shop.write(".git/info/exclude", "lib\n");
    shop
}

#[test]
fn a_repository_is_built_as_it_is_and_never_from_old_results() {
    let cluster = TestCluster::start(&[]);
    let base = base_with(&cluster, &["PATH=/opt/t:/usr/bin:/bin", "TOOL_HOME=/opt/t", "HOME=/nowhere"]);
    let _ = cluster.gantry(&["base", "import", "lang", base.to_str().expect("text")]).good();
    let shop = shop(&cluster);
    let folder = cluster.path("repository-shop");
    let date = "2026-01-02T03:04:05Z";
    shop.git(&["commit", "--quiet", "--message", "x"]);
    let mut git = Command::new("git");
    git.args(["-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "--quiet", "--amend", "--no-edit"]);
    git.env("GIT_COMMITTER_DATE", date).current_dir(&folder);
    let _ = run(git).good();
    let get = |path: &str, more: &[&str]| {
        let mut arguments = more.to_vec();
        let target = format!("/{path}");
        arguments.extend(["--request-target", &target]);
        cluster.curl("shop.localhost", &arguments).out
    };

    let first = shop.push().good();
    for expected in [
        "lib is a submodule",
        "a.bin is a pointer of git-lfs",
        "\nremote:        progress 100",
        "\nremote:        red",
        "\nremote:        made",
        "\nremote:        remade",
    ] {
        assert!(first.err.contains(expected), "no {expected:?} in {}", first.err);
    }
    assert_eq!(get("page.html", &[]), "first\n");
    // Files have the commit's time, including the files that the compile step made.
    for path in ["page.src", "page.html", "REVISION"] {
        let head = get(path, &["--head"]);
        assert!(head.contains("last-modified: Fri, 02 Jan 2026 03:04:05 GMT"), "{path}: {head}");
    }
    let inside = |command: &str| cluster.gantry(&["exec", "shop", "--", "sh", "-c", command]).good().out;
    assert_eq!(
        inside("stat -c '%a %U' /tmp /usr/bin; readlink /bin; touch /tmp/y; tool"),
        "1777 root\n755 root\nusr/bin\nok\n"
    );
    let hash = "import hashlib,sys\nfor n in sys.argv[1:]:\n b=open(n,'rb').read(); print(hashlib.sha1(b'blob %d\\0'%len(b)+b).hexdigest())";
    for path in ["a.ps1", "b.wide", "c.id", "d.crlf", "e.old"] {
        let blob = shop.git(&["rev-parse", &format!("HEAD:{path}")]).out;
        let found = cluster.gantry(&["exec", "shop", "--", "python3", "-c", hash, path]).good().out;
        assert_eq!(found, blob, "{path} is not the blob's bytes");
    }

    // The same commit in another app, later: the same image.
    let _ = cluster.gantry(&["app", "create", "twin", "--base", "lang"]).good();
    let twin = format!("http://x:{}@127.0.0.1:{}/git/twin.git", cluster.token(), cluster.api_port());
    let other = shop.attempt(&["push", &twin, "HEAD:main"]).good();
    assert_eq!(after(&other.err, "Image "), after(&first.err, "Image "));

    // A change with an old commit date, and its revert: make must treat each as newer than the previous output.
    let since = after(&get("page.src", &["--head"]), "last-modified: ").to_owned();
    for (text, date) in [("second\n", "2020-01-01T00:00:00Z"), ("first\n", "2019-01-01T00:00:00Z")] {
        shop.write("page.src", text);
        commit_at(&shop, &folder, date);
        let push = shop.push().good();
        assert!(push.err.contains("remote:        made") && !push.err.contains("remade"), "{}", push.err);
        assert!(!push.err.contains("Clock skew"), "{}", push.err);
        assert_eq!(get("made.html", &[]), text);
        let conditional = format!("If-Modified-Since: {since}");
        for path in ["page.html", "page.src"] {
            assert_eq!(get(path, &["--header", &conditional]), text, "{path}");
        }
        let unchanged = get("same.src", &["--header", &conditional, "--write-out", "%{http_code}"]);
        assert_eq!(unchanged, "304", "an unchanged file is still the same");
    }
    refusals(&cluster, &shop, &folder);
}

/// A source that cannot be built is refused, with its name and the reason.
fn refusals(cluster: &TestCluster, shop: &Repository, folder: &Path) {
    let refused = |expected: &[&str]| {
        shop.commit("bad");
        let push: Output = shop.push();
        assert!(push.status != 0, "{push:?}");
        for expected in expected {
            assert!(push.err.contains(expected), "no {expected:?} in {}", push.err);
        }
    };
    shop.write("bin/build", "#!/bin/sh\r\necho hi\r\n");
    refused(&["build failed in the compile step", "leads to bin/build", "CR LF"]);
    shop.write("bin/build", "#!/usr/bin/nothing -x\n");
    refused(&["build failed in the compile step", "run by /usr/bin/nothing, which the image does not have"]);
    shop.write("bin/build", "exit 0\n");
    let utf16: Vec<u8> = "{ web: 'x' }".encode_utf16().flat_map(u16::to_le_bytes).collect();
    std::fs::write(folder.join("deploy/roles"), utf16).expect("written");
    refused(&["build failed: container/roles.json cannot be read: it is UTF-16"]);
    std::fs::remove_file(folder.join("deploy/roles")).expect("removed");
    refused(&["container/roles.json is a link to ../deploy/roles, which is not in the repository"]);
    assert_eq!(cluster.curl("shop.localhost", &["--request-target", "/page.html"]).out, "first\n");
}
