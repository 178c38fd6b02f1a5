//! The exchange without connections: words of the servers, and layers that stay.

use gantry_control::layers::LayerOrder;

use super::*;

fn digest(number: u8) -> Digest {
    Digest::from_hex(&format!("{number:02x}").repeat(32)).expect("a digest")
}

fn machine(name: &str) -> LayerSource {
    LayerSource::Machine { machine: MachineName::parse(name).expect("a name"), addresses: Vec::new() }
}

fn order(source: Option<LayerSource>) -> LayerOrders {
    LayerOrders { sources: vec![LayerOrder { digest: digest(1), source, more: Vec::new() }] }
}

fn exchange() -> (tempfile::TempDir, LayerExchange) {
    let folder = tempfile::tempdir().expect("a folder");
    let exchange = LayerExchange::open(folder.path(), None).expect("an exchange");
    (folder, exchange)
}

#[tokio::test(start_paused = true)]
async fn waits_for_a_source_and_reports_failed_ones() {
    let (_folder, exchange) = exchange();
    let mut want = exchange.want(&digest(1));
    exchange.apply_orders(order(None));
    exchange.apply_orders(order(Some(machine("m2"))));
    assert_eq!(want.source().await, machine("m2"));
    assert_eq!(exchange.report().wants[0].from, Some(machine("m2")));
    want.fail([MachineName::parse("m2").expect("a name")]);
    let wanted = &exchange.report().wants[0];
    assert_eq!((wanted.failed.len(), &wanted.from), (1, &None));
    // The order was on its way when the source failed.
    exchange.apply_orders(order(Some(machine("m2"))));
    let begun = Instant::now();
    assert_eq!((want.source().await, begun.elapsed()), (LayerSource::Server, ORDER_TIMEOUT));
    drop(want);
    assert_eq!(exchange.report(), LayersReport::default());
}

#[tokio::test(start_paused = true)]
async fn falls_back_to_the_servers_without_an_order_in_time() {
    let (_folder, exchange) = exchange();
    let mut want = exchange.want(&digest(1));
    let begun = Instant::now();
    let waiting = async {
        for _ in 0..4 {
            tokio::time::sleep(ORDER_TIMEOUT - Duration::from_secs(1)).await;
            exchange.apply_orders(order(None));
        }
        std::future::pending::<()>().await
    };
    let source = tokio::select! { source = want.source() => source, () = waiting => unreachable!("it waits for ever") };
    let expected = 4 * (ORDER_TIMEOUT - Duration::from_secs(1)) + ORDER_TIMEOUT;
    assert_eq!((source, begun.elapsed()), (LayerSource::Server, expected));
}

#[tokio::test(start_paused = true)]
async fn servers_that_choose_no_sources_are_the_source() {
    let (_folder, exchange) = exchange();
    let mut want = exchange.want(&digest(1));
    let begun = Instant::now();
    exchange.connected(ProtocolVersion(2));
    assert_eq!((want.source().await, begun.elapsed()), (LayerSource::Server, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn the_other_sources_of_parts_go_on_when_one_fails() {
    let (_folder, exchange) = exchange();
    let mut want = exchange.want(&digest(1));
    assert!(want.sources().is_empty());
    let names = |want: &mut WantedGuard<'_>| {
        let name = |source: PartSource| match source {
            PartSource::Server => "servers".to_owned(),
            PartSource::Machine(machine) => machine.to_string(),
        };
        want.sources().into_keys().map(name).collect::<Vec<_>>()
    };
    let mut orders = order(Some(machine("m2")));
    orders.sources[0].more = vec![machine("m3"), LayerSource::Unknown, machine("m4")];
    exchange.apply_orders(orders);
    want.sources_changed(false).await;
    assert_eq!(names(&mut want), ["m2", "m3", "m4"]);
    want.fail([MachineName::parse("m3").expect("a name")]);
    assert_eq!(names(&mut want), ["m2", "m4"]);
    assert_eq!(exchange.report().wants[0].from, Some(machine("m2")));
    want.fail([MachineName::parse("m2").expect("a name")]);
    assert_eq!(names(&mut want), ["m4"]);
    assert_eq!(exchange.report().wants[0].from, None);
    // While a machine sends, the silence of the servers changes nothing.
    let silence = tokio::time::timeout(ORDER_TIMEOUT * 3, want.sources_changed(false)).await;
    assert!(silence.is_err());
    let begun = Instant::now();
    exchange.apply_orders(order(None));
    want.sources_changed(true).await;
    assert!(names(&mut want).is_empty());
    want.sources_changed(true).await;
    assert_eq!((names(&mut want), begun.elapsed()), (vec!["servers".to_owned()], ORDER_TIMEOUT));
}

#[tokio::test(start_paused = true)]
async fn parts_stay_for_a_time_and_while_they_are_fetched() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |number| folder.path().join(SHARED_LAYERS).join(format!("parts-{}", digest(number).hex()));
    std::fs::create_dir(folder.path().join(SHARED_LAYERS)).expect("a folder");
    (1..=3).for_each(|number| std::fs::write(path(number), "parts").expect("written"));
    let exchange = LayerExchange::open(folder.path(), None).expect("an exchange");
    let left = || (1..=3).filter(|number| path(*number).exists()).collect::<Vec<u8>>();
    let want = exchange.want(&digest(1));
    exchange.expire(false);
    assert_eq!(left(), [1, 2, 3]);
    tokio::time::advance(RETENTION / 2).await;
    exchange.begin_parts(&digest(2));
    tokio::time::advance(RETENTION / 2).await;
    exchange.expire(false);
    assert_eq!(left(), [1, 2]);
    exchange.expire(true);
    assert_eq!(left(), [1]);
    drop(want);
    exchange.expire(false);
    assert!(left().is_empty());
}

#[tokio::test(start_paused = true)]
async fn parts_count_in_the_size_and_the_age_of_what_stays() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |number| folder.path().join(SHARED_LAYERS).join(format!("parts-{}", digest(number).hex()));
    std::fs::create_dir(folder.path().join(SHARED_LAYERS)).expect("a folder");
    let long_ago = Duration::from_millis(gantry_linux::clock::wall()) - 4 * RETENTION;
    for number in 1..=3 {
        std::fs::write(path(number), vec![1; 100_000]).expect("written");
    }
    let old = std::fs::File::options().write(true).open(path(1)).expect("opened");
    old.set_modified(std::time::UNIX_EPOCH + long_ago).expect("old");
    let exchange = LayerExchange::open(folder.path(), None).expect("an exchange");
    let left = || (1..=3).filter(|number| path(*number).exists()).collect::<Vec<u8>>();
    exchange.expire(false);
    assert_eq!(left(), [2, 3], "the parts of an earlier agent are as old as their file");
    exchange.drop_parts(&digest(2));
    assert_eq!(left(), [3]);
    tokio::time::advance(RETENTION / 2).await;
    exchange.keep(&digest(4), KEPT_MAX);
    exchange.expire(false);
    assert!(left().is_empty(), "the oldest go");
    assert_eq!(exchange.report().has, [digest(4)]);
}

#[tokio::test(start_paused = true)]
async fn layers_stay_for_a_time_and_up_to_a_size() {
    let (_folder, exchange) = exchange();
    let has = |exchange: &LayerExchange| exchange.report().has.len();
    exchange.keep(&digest(1), KEPT_MAX / 2);
    tokio::time::advance(RETENTION / 2).await;
    exchange.keep(&digest(2), KEPT_MAX / 2);
    exchange.expire(false);
    assert_eq!(has(&exchange), 2);
    exchange.keep(&digest(3), 1);
    exchange.expire(false);
    assert_eq!(exchange.report().has, [digest(2), digest(3)], "the oldest goes");
    tokio::time::advance(RETENTION).await;
    exchange.keep(&digest(4), 1);
    exchange.expire(false);
    assert_eq!(exchange.report().has, [digest(4)]);
    exchange.expire(true);
    assert_eq!(has(&exchange), 0);
}

#[test]
fn a_machine_shares_only_under_servers_that_choose() {
    let (_folder, exchange) = exchange();
    exchange.connected(SHARES_LAYERS);
    assert!(!exchange.is_shared(), "a cloud of one machine");
    let config = tokio_rustls::rustls::ClientConfig::builder_with_provider(
        tokio_rustls::rustls::crypto::aws_lc_rs::default_provider().into(),
    );
    let config = config.with_safe_default_protocol_versions().expect("versions");
    let config = config.with_root_certificates(tokio_rustls::rustls::RootCertStore::empty()).with_no_client_auth();
    let shared = LayerExchange { tls: Some(Arc::new(config)), ..exchange };
    shared.state().decides = None;
    assert!(shared.is_shared(), "before the first connection");
    for (version, expected) in [(ProtocolVersion(2), false), (SHARES_LAYERS, true), (ProtocolVersion(2), false)] {
        shared.connected(version);
        assert_eq!(shared.is_shared(), expected, "{version:?}");
    }
}
