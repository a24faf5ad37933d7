//! Certificates that live for seconds, under load, with the authority away for half a life: nobody who calls notices.
//!
//! The suite takes lives of 10 s for half a minute. The bar, lives of 20 s under 500 calls a second for two minutes:
//! `WEFT_LEAVES=120 cargo test -p weft-integration --test resilience leaves:: -- --nocapture`

use crate::stage::{Instance, Load, assert_all_well};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use weft_integration::rig::{Mesh, Sidecar, wait_for};

/// Lasts, a life, calls a second.
fn plan() -> (Duration, Duration, u32) {
    let seconds =
        std::env::var("WEFT_LEAVES").ok().map(|text| text.parse().expect("WEFT_LEAVES is a number of seconds"));
    match seconds {
        Some(seconds) => (Duration::from_secs(seconds), Duration::from_secs(20), 500),
        None => (Duration::from_secs(25), Duration::from_secs(10), 200),
    }
}

fn renewals(sidecar: &Sidecar, result: &str) -> f64 {
    sidecar.metric("weft_certificate_renewals_total", &[&format!("result=\"{result}\"")])
}

/// Waits for that moment, while the load goes on.
fn until(load: &mut Load, moment: Instant) {
    while Instant::now() < moment {
        load.go_on_well(1);
    }
}

#[test]
fn leaves_of_seconds_are_renewed_under_load_while_the_authority_is_away_for_half_a_life() {
    let (lasts, life, rps) = plan();
    let lifetime = format!("{}s", life.as_secs());
    let flags = ["--leaf-lifetime", lifetime.as_str()];
    let mut mesh = Mesh::start_with(&flags);
    let catalogs = [Instance::catalog(&mesh, "catalog-1", "v1"), Instance::catalog(&mesh, "catalog-2", "v1")];
    let mut load = Load::start(&mesh, "http://catalog", rps);
    load.go_on_well(50);
    let begin = Instant::now();
    let before = [&catalogs[0].sidecar, &catalogs[1].sidecar, &load.sidecar].map(|sidecar| renewals(sidecar, "ok"));

    until(&mut load, begin + lasts / 2 - life / 4);
    let away = Instant::now();
    mesh.kill();
    until(&mut load, away + life / 2);
    mesh.up(&flags);
    let away = away.elapsed();
    assert!(away >= life / 2);
    until(&mut load, begin + lasts);

    let lives = lasts.as_secs_f64() / life.as_secs_f64();
    for (sidecar, before) in [&catalogs[0].sidecar, &catalogs[1].sidecar, &load.sidecar].into_iter().zip(before) {
        let renewed = wait_for("every sidecar has renewed since", || {
            let renewed = renewals(sidecar, "ok") - before;
            // Once in 0.39 of a life, and an outage.
            if renewed >= (lives / 0.39 - 2.0).floor() { Ok(renewed) } else { Err(format!("{renewed} renewals")) }
        });
        let ends = sidecar.metric("weft_certificate_expiry_seconds", &[]);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        let count = |direction, result| {
            let labels = [format!("direction=\"{direction}\""), format!("result=\"{result}\"")];
            sidecar.metric("weft_tls_handshakes_total", &labels.each_ref().map(String::as_str))
        };
        println!(
            "{renewed} renewals, {} that failed; {} and {} handshakes; valid for {:.1} s; {} retries",
            renewals(sidecar, "failed"),
            count("outbound", "ok"),
            count("inbound", "ok"),
            ends - now,
            sidecar.metric("weft_retries_total", &[])
        );
        assert!(ends > now && ends < now + life.as_secs_f64() + 1.0);
        for result in ["expired", "refused_by_peer", "not_yet_valid"] {
            assert_eq!((count("outbound", result), count("inbound", result)), (0.0, 0.0), "{result}");
        }
        assert!(sidecar.metric("weft_tls_expired_total", &[]) < 1.0, "nothing had to be cut");
    }
    // A connection lives no longer than its certificates: there were new ones.
    let made = load.sidecar.metric("weft_tls_handshakes_total", &["direction=\"outbound\"", "result=\"ok\""]);
    assert!(made >= 2.0 * (lives - 1.0).floor(), "{made} handshakes in {lives} lives");
    println!("{lasts:?} of load at {rps}/s, lives of {life:?}, the authority away for {away:?}");
    assert_all_well(&load.stop());
}
