//! Samples that messages of several kinds have: names, specs and machines.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::str::FromStr;

use gantry_model::role::{AppProtocol, MissedPolicy, OverlapPolicy, RoleSchedule, ShutdownSignal};
use gantry_model::{
    Architecture, Bytes, Digest, Exposure, HealthSettings, InstanceSpec, Kind, MilliCpu, PlacementRules,
    ResourceLimits, Role, RoleCommand, RolePattern, Seconds,
};

/// Parses a text.
pub(crate) fn parsed<T: FromStr<Err: Debug>>(text: &str) -> T {
    text.parse().expect("a valid text")
}

/// A digest of 64 times the same digit.
pub(crate) fn digest(digit: char) -> Digest {
    Digest::from_hex(&String::from(digit).repeat(64)).expect("a digest")
}

/// A map of one text.
pub(crate) fn texts(key: &str, value: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(key.to_owned(), value.to_owned())])
}

/// A spec with every field.
pub(crate) fn service() -> InstanceSpec {
    InstanceSpec {
        image: digest('a'),
        commit: Some("c0ffee".to_owned()),
        config: texts("COLOR", "blue").into(),
        role: Role {
            kind: Kind::Service,
            exposure: Exposure::Http,
            command: RoleCommand::Shell("bin/serve".to_owned()),
            port: Some(8080),
            protocol: AppProtocol::Http1,
            instances: 2,
            limits: ResourceLimits {
                memory: Bytes(268_435_456),
                cpu: MilliCpu(1500),
                pids: 256,
                disk: Bytes(1_048_576),
            },
            health: HealthSettings {
                path: Some("/up".to_owned()),
                command: Some("bin/check".to_owned()),
                host: Some("shop.example".to_owned()),
                headers: texts("X-Check", "yes"),
                content: Some("fine".to_owned()),
                start: Some(Seconds(90)),
                initial_delay: Some(Seconds(2)),
                interval: Seconds(1),
                timeout: Seconds(5),
                attempts: 3,
                settle: Seconds(6),
                watch: Seconds(10),
            },
            stop_signal: ShutdownSignal::Quit,
            stop_timeout: Seconds(31),
            request_timeout: Seconds(61),
            drain: Some(Seconds(32)),
            request_buffer: Some(Bytes(4096)),
            env: texts("MODE", "fast"),
            volumes: texts("data", "/data"),
            single: true,
            schedule: Some(RoleSchedule {
                cron: "5 4 * * *".to_owned(),
                timezone: Some("Europe/Berlin".to_owned()),
                missed: MissedPolicy::All,
                overlap: OverlapPolicy::Forbid,
            }),
            placement: PlacementRules {
                reserve_memory: Some(Bytes(134_217_728)),
                reserve_cpu: Some(MilliCpu(250)),
                labels: BTreeMap::from([(parsed("disk"), BTreeSet::from([parsed("nvme"), parsed("ssd")]))]),
                architecture: Some(Architecture("amd64".to_owned())),
                with: BTreeSet::from([pattern("shop/cache")]),
                apart_from: BTreeSet::from([pattern("*/batch")]),
                one_per_machine: true,
                global: true,
                machine: Some(parsed("m1")),
                spread: Some(parsed("zone")),
            },
        },
        volumes_of: Some(parsed("store")),
    }
}

fn pattern(text: &str) -> RolePattern {
    RolePattern::parse(text).expect("a pattern")
}

/// A spec without the fields that a spec may lack.
pub(crate) fn job() -> InstanceSpec {
    let service = service();
    let health = HealthSettings {
        path: None,
        command: None,
        host: None,
        headers: BTreeMap::new(),
        content: None,
        start: None,
        initial_delay: None,
        ..service.role.health
    };
    let role = Role {
        kind: Kind::Job,
        exposure: Exposure::None,
        command: RoleCommand::Argv(vec!["bin/migrate".to_owned(), "--all".to_owned()]),
        port: None,
        protocol: AppProtocol::H2c,
        health,
        drain: None,
        request_buffer: None,
        env: BTreeMap::new(),
        volumes: BTreeMap::new(),
        single: false,
        schedule: None,
        placement: PlacementRules::default(),
        ..service.role
    };
    InstanceSpec { image: digest('b'), commit: None, config: texts("SIZE", "small").into(), role, volumes_of: None }
}
