#!/usr/bin/env bash
# podman 4.3.1 and umoci 0.4.7 (Debian 12): two valid image layers, and what becomes of them.
#
# Layer A holds the file "f" and then ".wh.f", over a layer that has "f" too. The image specification lets a whiteout act
# on lower layers only, so "f" stays, and it demands no order. Layer B holds a hard link to a file of the lower layer.
# Expected: every tool gives "f" with the new content, and the link with the content of its target.
# Seen: umoci does so for both. podman with the vfs driver unpacks A with no "f" at all, and B right. podman with the
#       overlay driver refuses A ("file exists") and B ("no such file or directory"): neither image can be pulled.
#       With ".wh.f" before "f" all three agree.
# Why it matters: vfs is common inside containers and CI, overlay on hosts. An image of a home-made layer builder passes
#       the build and loses a file, or passes CI and cannot be pulled in production.
#       Run as root: the overlay driver needs it. Remedy: whiteouts first, and no hard links across layers.
set -euo pipefail

work=$(mktemp -d)
cleanup() {
  umount "$work/overlay/overlay" 2>/dev/null || true
  rm -rf "$work"
}
trap cleanup EXIT
cd "$work"

[ "$(podman --version)" = "podman version 4.3.1" ]
if command -v umoci >/dev/null; then
  umoci=umoci
else
  apt-get download -qq umoci=0.4.7+ds-3+b7 2>/dev/null
  dpkg -x umoci_*.deb umoci-package
  umoci=$work/umoci-package/usr/bin/umoci
fi
"$umoci" --version | grep -q '0\.4\.7'

cat >images.py <<'PY'
import hashlib
import io
import json
import os
import tarfile


def layer(*entries):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content, link in entries:
            entry = tarfile.TarInfo(name)
            if link:
                entry.type, entry.linkname = tarfile.LNKTYPE, link
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def write_image(folder, *layers):
    blobs = os.path.join(folder, "blobs", "sha256")
    os.makedirs(blobs)

    def blob(kind, data):
        with open(os.path.join(blobs, digest(data).split(":")[1]), "wb") as file:
            file.write(data)
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": digest(data), "size": len(data)}

    config = {"architecture": "amd64", "os": "linux", "config": {}}
    config["rootfs"] = {"type": "layers", "diff_ids": [digest(data) for data in layers]}
    manifest = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json"}
    manifest["config"] = blob("config.v1+json", json.dumps(config).encode())
    manifest["layers"] = [blob("layer.v1.tar", data) for data in layers]
    entry = blob("manifest.v1+json", json.dumps(manifest).encode())
    entry["annotations"] = {"org.opencontainers.image.ref.name": "t"}
    for name, content in (
        ("index.json", {"schemaVersion": 2, "manifests": [entry]}),
        ("oci-layout", {"imageLayoutVersion": "1.0.0"}),
    ):
        with open(os.path.join(folder, name), "w") as file:
            json.dump(content, file)


base = layer(("f", b"old", None), ("target", b"shared", None))
write_image("file-then-whiteout", base, layer(("f", b"new", None), (".wh.f", b"", None)))
write_image("whiteout-then-file", base, layer((".wh.f", b"", None), ("f", b"new", None)))
write_image("link-to-lower-layer", base, layer(("link", b"", "target")))
PY
python3 images.py

contents() { (cd "$1" && find . -type f | sort | while read -r file; do printf '%s=%s ' "${file#./}" "$(cat "$file")"; done); }

with_umoci() {
  rm -rf bundle
  "$umoci" unpack --rootless --image "$1:t" bundle >/dev/null 2>&1
  contents bundle/rootfs
}

with_podman() {
  local podman=(podman --root "$work/$2" --runroot "$work/run-$2" --tmpdir "$work/tmp-$2" --storage-driver "$2") id root
  if ! id=$("${podman[@]}" pull -q "oci:$1:t" 2>error.log); then
    echo "refused: $(grep -oE 'file exists|no such file or directory' error.log | head -1)"
    return
  fi
  root=$("${podman[@]}" image mount "$id")
  contents "$root"
  "${podman[@]}" image umount "$id" >/dev/null
  "${podman[@]}" rmi -f "$id" >/dev/null
}

failed=0
check() {
  local image=$1 tool=$2 got=$3 expected=$4
  printf '%-20s %-16s %s\n' "$image" "$tool" "$got"
  [ "$got" = "$expected" ] || failed=1
}
whole='f=new target=shared '
linked='f=old link=shared target=shared '
check file-then-whiteout umoci "$(with_umoci file-then-whiteout)" "$whole"
check file-then-whiteout "podman, vfs" "$(with_podman file-then-whiteout vfs)" 'target=shared '
check file-then-whiteout "podman, overlay" "$(with_podman file-then-whiteout overlay)" 'refused: file exists'
check link-to-lower-layer umoci "$(with_umoci link-to-lower-layer)" "$linked"
check link-to-lower-layer "podman, vfs" "$(with_podman link-to-lower-layer vfs)" "$linked"
check link-to-lower-layer "podman, overlay" "$(with_podman link-to-lower-layer overlay)" 'refused: no such file or directory'
check whiteout-then-file umoci "$(with_umoci whiteout-then-file)" "$whole"
check whiteout-then-file "podman, vfs" "$(with_podman whiteout-then-file vfs)" "$whole"
check whiteout-then-file "podman, overlay" "$(with_podman whiteout-then-file overlay)" "$whole"
exit "$failed"
