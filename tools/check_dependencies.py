"""Reads `cargo metadata` and checks the workspace's arrows, and `deny.toml` on everything that is linked in."""

import json
import pathlib
import sys
import tomllib

LAYERS = {
    "gantry-model": 0,
    "gantry-error": 0,
    "gantry-failpoint": 0,
    "gantry-ledger": 0,
    "gantry-random": 0,
    "gantry-plan-audit": 1,
    "gantry-placement": 1,
    "gantry-planner": 2,
    "gantry-error-codes": 0,
    "gantry-records": 1,
    "gantry-admission": 2,
    "gantry-queue": 1,
    "gantry-schedule": 1,
    "gantry-coordination": 1,
    "gantry-distribution": 1,
    "gantry-queue-store": 2,
    "gantry-etcd-gateway": 2,
    "gantry-supervision": 1,
    "gantry-linux": 1,
    "gantry-init": 2,
    "gantry-store": 2,
    "gantry-blobs": 2,
    "gantry-relay": 2,
    "gantry-trust": 2,
    "gantry-api": 2,
    "gantry-git": 2,
    "gantry-control": 3,
    "gantry-image": 3,
    "gantry-sandbox": 3,
    "gantry-build": 4,
    "gantry-fixtures": 4,
    "gantry-cluster": 4,
    "gantry-server": 5,
    "gantry-agent": 5,
    "gantry-router": 5,
    "gantry": 6,
    "gantry-simulation": 7,
    "gantry-testbed": 7,
}
DECIDERS = {
    "gantry-plan-audit": {"gantry-model"},
    "gantry-placement": {"gantry-model"},
    "gantry-planner": {"gantry-model", "gantry-placement", "serde"},
    "gantry-error-codes": {"serde", "strsim"},
    "gantry-records": {"gantry-model", "serde", "serde_json", "thiserror"},
    "gantry-queue": {"gantry-model", "serde", "serde_json", "thiserror"},
    # jiff: calendars and time zones, from a database inside the program.
    "gantry-schedule": {"gantry-model", "jiff", "serde", "thiserror"},
    "gantry-coordination": {"gantry-model", "thiserror"},
    "gantry-distribution": {"gantry-model"},
    "gantry-etcd-gateway": {"base64", "gantry-coordination", "serde_json", "thiserror"},
    "gantry-admission": {"gantry-error-codes", "gantry-model", "gantry-records", "thiserror"},
    "gantry-cluster": {
        "gantry-admission", "gantry-control", "gantry-model", "gantry-placement", "gantry-plan-audit", "gantry-planner",
        "gantry-records",
    },
}
# Fakes for tests. The tests of the crates below it use it, too.
FIXTURES = "gantry-fixtures"
# The server starts no container: neither it nor what it uses knows the sandbox.
WITHOUT_SANDBOX = {"gantry-server", "gantry-build"}
# ipnet: address ranges; serde_json and sha2: digests of values. None has I/O.
MODEL = {"ipnet", "serde", "serde_json", "sha2", "thiserror"}
RULES = tomllib.loads((pathlib.Path(__file__).parent.parent / "deny.toml").read_text())
ALLOWED = set(RULES["licenses"]["allow"])
BANNED = {ban["crate"]: ban["reason"] for ban in RULES["bans"]["deny"]}


def licence_allowed(text):
    """Any branch of an OR, every part of an AND."""
    text = (text or "").replace("/", " OR ").replace("(", " ").replace(")", " ")
    return all(any(part.strip() in ALLOWED for part in branch.split(" OR ")) for branch in text.split(" AND "))


def main():
    metadata = json.load(sys.stdin)
    members = set(metadata["workspace_members"])
    problems = []
    for package in metadata["packages"]:
        name = package["name"]
        if package["id"] not in members:
            if not licence_allowed(package["license"]):
                problems.append(f"{name} {package['version']} has the licence {package['license']}")
            if name in BANNED:
                problems.append(f"{name} is banned: {BANNED[name]}")
            continue
        if name not in LAYERS:
            problems.append(f"{name} is in no layer; put it into tools/check_dependencies.py")
            continue
        for dependency in package["dependencies"]:
            other, kind = dependency["name"], dependency["kind"]
            if kind == "dev" and other == FIXTURES:
                continue
            if other == FIXTURES:
                problems.append(f"{name} may depend on {other} in tests only")
            if other in LAYERS and LAYERS[other] >= LAYERS[name]:
                problems.append(f"{name} may not depend on {other}: arrows point down only")
            if kind is None and name in DECIDERS and other not in DECIDERS[name]:
                problems.append(f"{name} decides and may not depend on {other}")
            if kind is None and name in WITHOUT_SANDBOX and other == "gantry-sandbox":
                problems.append(f"{name} runs in the server, which starts no container, and may not depend on {other}")
            if kind is None and name == "gantry-model" and other not in MODEL:
                problems.append(f"gantry-model may not depend on {other}")
    for problem in problems:
        print(problem, file=sys.stderr)
    if not problems:
        print(f"{len(members)} crates, {len(metadata['packages']) - len(members)} dependencies: arrows and licences are right")
    return 1 if problems else 0


sys.exit(main())
