//! What is asked of a Prometheus, and what is made of its answers.

use super::*;

fn row(labels: &[(&str, &str)], values: &[(f64, &str)]) -> Row {
    Row {
        metric: labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        values: values.iter().map(|(at, value)| (*at, (*value).to_owned())).collect(),
    }
}

#[test]
fn a_range_is_of_whole_steps_that_a_page_can_show() {
    let hours = Range::of(Duration::from_secs(6 * 3600), 1_000_000_017);
    assert_eq!(hours, Range { begins: 999_978_390, step: 90, steps: 240 });
    let month = Range::of(LONGEST * 2, 1_000_000_017);
    assert_eq!((month.step, month.steps), (10_800, 240));
    assert_eq!((month.begins + month.step * month.steps) % month.step, 0);
}

#[test]
fn names_become_matchers_and_nothing_else_does() {
    let wanted = Wanted { namespace: "shop".into(), service: "cart.v2".into(), ..Wanted::default() };
    let rate = &queries(Subject::Service, &wanted, 120).unwrap()[0].1;
    assert!(rate.starts_with(
        "sum by (destination) (rate(weft_requests_total{direction=\"outbound\",destination=~\"[^/]*/cart\\\\.v2\",destination=~\"shop/.*\"}[120s])) or ("
    ), "{rate}");
    for bad in ["a\"} or vector(1) #", "a.*", "a|b", "a\nb"] {
        let wanted = Wanted { service: bad.into(), ..Wanted::default() };
        assert!(queries(Subject::Service, &wanted, 120).is_err(), "{bad}");
    }
    assert!(queries(Subject::Endpoint, &Wanted::default(), 120).unwrap_err().contains("an hour at most"));
    let edge = Wanted { source: "shop/web".into(), ..Wanted::default() };
    let all = queries(Subject::Edge, &edge, 120).unwrap();
    assert!(all.len() == 5 && all[0].1.contains("source=~\"shop/web\""), "{all:?}");
}

#[test]
fn answers_become_columns_of_one_value_a_step() {
    let range = Range { begins: 1000, step: 30, steps: 3 };
    let cart = [("destination", "shop/cart")];
    let answers = vec![
        (
            Column::Rate,
            vec![
                row(&cart, &[(1030.0, "10"), (1060.0, "20"), (1090.0, "0")]),
                row(&[("destination", "shop/idle")], &[(1030.0, "0")]),
            ],
        ),
        (Column::Failed, vec![row(&cart, &[(1060.0, "5")])]),
        (Column::Percentile(0), vec![row(&cart, &[(1030.0, "0.0123"), (1060.0, "NaN"), (5000.0, "1")])]),
    ];
    let (lines, omitted) = lines(Subject::Service, &Wanted::default(), answers, range);
    assert_eq!((lines.len(), omitted), (1, 0));
    let line = &lines[0];
    assert_eq!(line.rps, [Some(10.0), Some(20.0), Some(0.0)]);
    assert_eq!(line.success, [Some(1.0), Some(0.75), None]);
    assert_eq!(line.failures, [Some(0.0), Some(150.0), Some(0.0)]);
    assert_eq!((&line.p50_ms, &line.p95_ms), (&vec![Some(12.3), None, None], &vec![None, None, None]));
}

#[test]
fn a_failure_is_said_as_it_was_said() {
    let body = br#"{"status":"error","errorType":"execution","error":"query timed out"}"#;
    assert_eq!(read(503, body).unwrap_err(), "query timed out");
    assert_eq!(read(401, b"Unauthorized").unwrap_err(), "answered 401");
    assert_eq!(read(200, b"<html>").unwrap_err(), "the answer is none of its API");
    assert!(read(200, br#"{"status":"success","data":{"resultType":"matrix","result":[]}}"#).unwrap().is_empty());
}

#[test]
fn an_address_is_one_of_the_web_and_credentials_are_in_a_private_file() {
    use std::os::unix::fs::PermissionsExt;
    for bad in ["prometheus:9090", "ftp://prometheus.example", "http://user:pw@prometheus.example", ""] {
        assert!(Prometheus::open(bad, None, None).is_err(), "{bad}");
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("basic");
    std::fs::write(&path, "weft:secret\n").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let open = || Prometheus::open("https://prometheus.example/metrics/", None, Some(&path));
    assert!(open().is_err());
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let opened = open().unwrap();
    assert_eq!(opened.authorization.as_ref().unwrap(), "Basic d2VmdDpzZWNyZXQ=");
    assert_eq!(format!("{opened:?}"), "Prometheus(https://prometheus.example/metrics)");
}

#[test]
fn what_matchers_cannot_say_is_left_out_afterwards() {
    let shop = Wanted { namespace: "shop".into(), ..Wanted::default() };
    assert!(
        shop.has(Subject::Edge, "bank/ledger", "shop/web") && !shop.has(Subject::Edge, "bank/ledger", "bank/teller")
    );
    assert!(shop.has(Subject::Service, "shop/cart", "") && !shop.has(Subject::Service, "bank/ledger", ""));
    let web = Wanted { source: "web".into(), ..shop };
    assert!(web.has(Subject::Edge, "shop/cart", "shop/web") && !web.has(Subject::Edge, "shop/cart", "shop/load"));
}
