//! The shop over two nodes, with users who keep calling, and one fault after the other: a node that is cut off, a
//! control plane that cannot be reached, DNS that does not answer, packets that are lost, clocks that jump. What users
//! saw of each is printed, and written to `target/chaos.md`; what Weft promises of it is asserted. In network
//! namespaces; needs root.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test says what is wrong")]

mod report;
mod stage;
mod users;

use report::{Fault, Row};
use stage::Stage;
use std::time::{Duration, Instant};
use users::Users;
use weft_integration::rig::wait_for;

/// How long users are watched before each fault.
const BEFORE: Duration = Duration::from_secs(3);
/// Users are well when this long nothing failed and nothing was slow.
const CALM: Duration = Duration::from_secs(3);
/// The most that may pass from the end of a fault until then.
const RECOVERY: Duration = Duration::from_secs(20);

/// Watches users before, during and after a fault.
fn measure(users: &Users, fault: Fault, begin: impl FnOnce(), end: impl FnOnce()) -> Row {
    let before = users.now();
    std::thread::sleep(BEFORE);
    let from = users.now();
    begin();
    let began = users.now();
    // A fault lasts its time: this is no wait for a condition.
    std::thread::sleep(fault.lasts);
    let to = users.now();
    end();
    let ordinary = users.between(before, from);
    let slow = ordinary.slow();
    let over = Instant::now() + RECOVERY + CALM;
    let well = loop {
        let last = users.last_trouble(slow).filter(|at| *at >= began);
        if last.is_none_or(|at| users.now() >= at.max(to) + CALM) && users.now() >= to + CALM {
            break last;
        }
        assert!(
            Instant::now() < over,
            "{}: users are not well again after {RECOVERY:?}: {:?}",
            fault.name,
            users.failures()
        );
        std::thread::sleep(Duration::from_millis(100));
    };
    let recovery = well.map_or(Duration::ZERO, |at| at.saturating_sub(to));
    let row = Row {
        fault,
        before: ordinary,
        during: users.between(from, to),
        after: users.between(to, users.now()),
        recovery,
    };
    println!("{}", row.line());
    assert!(row.before.is_perfect(), "{}: before it: {:?}", row.fault.name, users.failures());
    row
}

#[test]
fn the_shop_over_two_nodes_lives_through_faults() {
    let mut stage = Stage::start();
    let users = Users::start(&stage.user, stage.storefront());
    users.wait_until_well();
    let mut rows = Vec::new();
    let fault = |name, seconds, right| Fault { name, lasts: Duration::from_secs(seconds), right };

    let right = "every call, with the configuration and certificates that sidecars hold";
    let row =
        measure(&users, fault("control plane unreachable", 6, right), || stage.cut_control_plane(), || stage.mend());
    assert_eq!(row.during.failed + row.after.failed, 0, "nobody needs it for a call: {:?}", users.failures());
    rows.push(row);

    let right = "names of the mesh, which each sidecar answers itself; others are refused within 5 s, and resolve again at once";
    let name = || stage.asks("partner.example.com");
    assert_eq!(name(), "192.0.2.77");
    let row = measure(
        &users,
        fault("DNS down", 6, right),
        || {
            stage.cut_dns();
            let asked = Instant::now();
            assert_eq!(name(), "", "nobody can say");
            assert!(asked.elapsed() < Duration::from_secs(8), "{:?}", asked.elapsed());
            assert_eq!(stage.asks("storefront.shop.svc.cluster.local"), stage.storefront().to_string());
        },
        || stage.mend(),
    );
    assert_eq!(name(), "192.0.2.77");
    assert_eq!(row.during.failed + row.after.failed, 0, "{:?}", users.failures());
    rows.push(row);

    let right = "TCP makes it good: calls are slower, those that take too long are tried again";
    let row =
        measure(&users, fault("5 % of packets lost", 10, right), || stage.lose_packets(), || stage.find_packets());
    assert!(row.during.share() >= 99.0, "{}", row.line());
    rows.push(row);

    for (name, step, right) in [
        (
            "clock of one sidecar 25 h ahead",
            90_000,
            "every call: open connections go on; to it all certificates have ended, so new callers go to the other instance",
        ),
        (
            "clock of one sidecar 1 h behind",
            -3600,
            "every call, likewise; deadlines are measured by a clock that cannot be set",
        ),
    ] {
        let ahead = || {
            stage.step_clock(step);
            let (well, refused) = stage.charge(6);
            println!("{name}: {well} of 6 charges of a new caller were well, it refused {refused} handshakes");
            assert_eq!(well, 6);
            assert!(refused > 0.0 || step < 86_400, "its clock is right, it seems");
        };
        let row = measure(&users, fault(name, 5, right), ahead, || stage.set_clock("+0"));
        assert_eq!(row.during.failed + row.after.failed, 0, "{}: {:?}", row.line(), users.failures());
        rows.push(row);
    }

    let cut = users.now();
    let right = "calls that waited for the node are tried at the other, and it is left out";
    let row = measure(&users, fault("one node of two cut off", 10, right), || stage.cut_node(), || stage.join_node());
    let later = users.between(cut + BEFORE + Duration::from_secs(6), cut + BEFORE + row.fault.lasts);
    println!("from the sixth second of the partition on: {later:?}");
    assert!(later.share() >= 99.0, "from the sixth second on: {later:?}");
    assert!(row.during.share() >= 90.0, "{}", row.line());
    rows.push(row);

    wait_for("both nodes serve again", || stage.both_nodes_serve());
    let text = report::table(&rows);
    report::write("chaos.md", &text);
    println!("\n{text}");
    stage.assert_mutual();
    users.stop();
    stage.stop();
}
