//! Headers in, headers out, with the examples of both specifications.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const W3C: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const TRACE: u128 = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736;
const SPAN: u64 = 0x00f0_67aa_0ba9_02b7;
const RANDOM: [u64; 3] = [0xAAAA, 0xBBBB, 0xCCCC];

fn incoming(headers: &[(&str, &str)]) -> Incoming {
    read(|name| headers.iter().find(|(n, _)| name == n).map(|(_, value)| value.as_bytes()))
}

fn written(context: &Context, formats: Formats) -> BTreeMap<String, String> {
    let mut headers = BTreeMap::new();
    context.write(formats, |name, value| {
        headers.insert(name.to_string(), value.to_owned());
    });
    headers
}

#[test]
fn a_traceparent_is_continued_as_its_child() {
    let incoming = incoming(&[("traceparent", W3C)]);
    let child = incoming.proceed(RANDOM, false);
    assert_eq!((child.trace_id, child.span_id, child.parent_id), (TRACE, 0xCCCC, Some(SPAN)));
    assert!(child.is_sampled());
    let headers = written(&child, incoming.formats);
    assert_eq!(
        headers,
        [("traceparent".into(), "00-4bf92f3577b34da6a3ce929d0e0e4736-000000000000cccc-01".into())].into()
    );
}

#[test]
fn without_a_trace_one_is_started() {
    for sample in [true, false] {
        let incoming = incoming(&[]);
        let context = incoming.proceed(RANDOM, sample);
        assert_eq!((context.trace_id, context.parent_id), (0xAAAA << 64 | 0xBBBB, None));
        let flags = if sample { "01" } else { "00" };
        let expected = format!("00-000000000000aaaa000000000000bbbb-000000000000cccc-{flags}");
        assert_eq!(written(&context, incoming.formats)["traceparent"], expected);
    }
    let unlucky = incoming(&[]).proceed([0; 3], true);
    assert!(unlucky.trace_id != 0 && unlucky.span_id != 0);
}

#[test]
fn malformed_traceparents_are_no_trace() {
    for bad in [
        "",
        "00",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
        "00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01x",
        "0g-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e473\u{e9}-00f067aa0ba902b7-01",
    ] {
        assert_eq!(incoming(&[("traceparent", bad)]), Incoming::default(), "{bad}");
    }
}

#[test]
fn a_later_version_is_read_as_far_as_it_is_known() {
    let later =
        incoming(&[("traceparent", "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-the-future-brings")]);
    assert_eq!(later.context.map(|c| c.trace_id), Some(TRACE));
    assert!(written(&later.proceed(RANDOM, false), later.formats)["traceparent"].starts_with("00-4bf9"));
}

#[test]
fn a_single_b3_header_is_continued_in_kind() {
    let b3 = incoming(&[("b3", "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1-05e3ac9a4f6e3b90")]);
    let context = b3.context.unwrap();
    assert_eq!((context.span_id, context.parent_id), (0xe457_b5a2_e4d8_6bd1, Some(0x05e3_ac9a_4f6e_3b90)));
    let headers = written(&b3.proceed(RANDOM, false), b3.formats);
    assert_eq!(
        headers,
        [("b3".into(), "80f198ee56343ba864fe8b2a57d3eff7-000000000000cccc-1-e457b5a2e4d86bd1".into())].into()
    );
}

#[test]
fn b3_without_a_decision_leaves_it_to_us_and_a_bare_decision_binds_us() {
    let open = incoming(&[("b3", "e457b5a2e4d86bd1-e457b5a2e4d86bd1")]);
    assert_eq!(open.context.unwrap().sampled, None);
    assert!(open.proceed(RANDOM, true).is_sampled() && !open.proceed(RANDOM, false).is_sampled());
    let deny = incoming(&[("b3", "0")]);
    assert_eq!((deny.context, deny.sampled), (None, Some(false)));
    assert!(!deny.proceed(RANDOM, true).is_sampled());
    assert!(written(&deny.proceed(RANDOM, true), deny.formats)["b3"].ends_with("-0"));
    assert!(incoming(&[("b3", "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-d")]).context.unwrap().debug);
}

#[test]
fn malformed_b3_is_no_trace() {
    for bad in [
        "",
        "2",
        "abc-def",
        "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-x",
        "-",
        "e457b5a2e4d86bd1-e457b5a2e4d86bd1-1-2",
        "e457b5a2e4d86bd1-e457b5a2e4d86bd1-1-e457b5a2e4d86bd1-1",
    ] {
        assert_eq!(incoming(&[("b3", bad)]), Incoming::default(), "{bad}");
    }
}

#[test]
fn multiple_b3_headers_are_continued_in_kind() {
    let b3 = incoming(&[
        ("x-b3-traceid", "80f198ee56343ba864fe8b2a57d3eff7"),
        ("x-b3-spanid", "e457b5a2e4d86bd1"),
        ("x-b3-parentspanid", "05e3ac9a4f6e3b90"),
        ("x-b3-sampled", "true"),
    ]);
    let headers = written(&b3.proceed(RANDOM, false), b3.formats);
    let expected = [
        ("x-b3-parentspanid", "e457b5a2e4d86bd1"),
        ("x-b3-sampled", "1"),
        ("x-b3-spanid", "000000000000cccc"),
        ("x-b3-traceid", "80f198ee56343ba864fe8b2a57d3eff7"),
    ];
    assert_eq!(headers, expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
    let debug = incoming(&[("x-b3-flags", "1")]).proceed(RANDOM, false);
    assert!(debug.is_sampled());
}

#[test]
fn a_traceparent_alone_is_read_as_among_others() {
    for value in [W3C, "", "00-x"] {
        let alone = incoming(&[("traceparent", value)]);
        assert_eq!(read_w3c(Some(value.as_bytes())), alone);
        assert_eq!(alone.formats.w3c, value == W3C);
    }
    assert_eq!(read_w3c(None), Incoming::default());
    let child = incoming(&[("traceparent", W3C)]).proceed(RANDOM, false);
    assert_eq!(&*traceparent(&child), written(&child, Formats::default())["traceparent"]);
    assert_eq!(&*trace_id_text(TRACE), "4bf92f3577b34da6a3ce929d0e0e4736");
    for (flags, sampled) in [("00", false), ("01", true), ("02", false), ("03", true), ("fe", false), ("ff", true)] {
        let value = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-{flags}");
        let context = incoming(&[("traceparent", &value)]).context.unwrap();
        assert_eq!(context.sampled, Some(sampled), "{flags}: the other flags say nothing of it");
    }
}

#[test]
fn what_b3_says_of_sampling_is_passed_on() {
    let ids = [("x-b3-traceid", "e457b5a2e4d86bd1"), ("x-b3-spanid", "e457b5a2e4d86bd1")];
    for (name, value, sampled, header, state) in [
        ("x-b3-sampled", "1", Some(true), Some(("x-b3-sampled", "1")), "-1"),
        ("x-b3-sampled", "true", Some(true), Some(("x-b3-sampled", "1")), "-1"),
        ("x-b3-sampled", "0", Some(false), Some(("x-b3-sampled", "0")), "-0"),
        ("x-b3-sampled", "false", Some(false), Some(("x-b3-sampled", "0")), "-0"),
        ("x-b3-sampled", "yes", None, None, ""),
        ("x-b3-flags", "1", Some(true), Some(("x-b3-flags", "1")), "-d"),
        ("x-b3-flags", "0", None, None, ""),
    ] {
        let all = [ids[0], ids[1], (name, value)];
        let whole = incoming(&all);
        let context = Context { parent_id: Some(7), ..whole.context.unwrap() };
        assert_eq!((context.sampled, whole.formats.b3_multi), (sampled, true), "{name}: {value}");
        let bare = incoming(&[(name, value)]);
        assert_eq!((bare.context, bare.sampled, bare.formats.b3_multi), (None, sampled, sampled.is_some()));
        let mut headers = written(&context, Formats { b3_multi: true, ..Formats::default() });
        for (name, value) in [
            ("x-b3-traceid", "0000000000000000e457b5a2e4d86bd1"),
            ("x-b3-spanid", "e457b5a2e4d86bd1"),
            ("x-b3-parentspanid", "0000000000000007"),
        ] {
            assert_eq!(headers.remove(name).as_deref(), Some(value));
        }
        assert_eq!(
            headers.into_iter().collect::<Vec<_>>(),
            header.map(|(n, v)| (n.to_owned(), v.to_owned())).as_slice()
        );
        let single = written(&context, Formats { b3_single: true, ..Formats::default() });
        let parent = if state.is_empty() { "" } else { "-0000000000000007" };
        assert_eq!(single["b3"], format!("0000000000000000e457b5a2e4d86bd1-e457b5a2e4d86bd1{state}{parent}"));
    }
}

#[test]
fn ids_have_their_length_and_are_not_zero() {
    let (whole, half) = ("80f198ee56343ba864fe8b2a57d3eff7", "64fe8b2a57d3eff7");
    let zero = "0".repeat(32);
    for (trace, span, valid) in [
        (whole, half, true),
        (half, half, true),
        (&whole[1..], half, false),
        (&whole[..15], half, false),
        (&format!("{whole}0"), half, false),
        (&zero, half, false),
        (whole, &half[1..], false),
        (whole, &format!("0{half}"), false),
        (whole, &zero[..16], false),
        (whole, "", false),
        ("", half, false),
    ] {
        let single = format!("{trace}-{span}");
        assert_eq!(incoming(&[("b3", single.as_str())]).context.is_some(), valid, "{single}");
        let multi = incoming(&[("x-b3-traceid", trace), ("x-b3-spanid", span)]);
        assert_eq!((multi.context.is_some(), multi.formats.b3_multi), (valid, valid), "{single}");
    }
}

#[test]
fn w3c_wins_and_every_format_that_came_in_goes_out() {
    let both = incoming(&[("traceparent", W3C), ("b3", "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-0")]);
    let context = both.proceed(RANDOM, false);
    assert_eq!(context.trace_id, TRACE);
    let headers = written(&context, both.formats);
    assert!(headers["traceparent"].ends_with("cccc-01"));
    assert_eq!(headers["b3"], "4bf92f3577b34da6a3ce929d0e0e4736-000000000000cccc-1-00f067aa0ba902b7");
}

#[test]
fn tracestate_is_kept_only_when_well_formed() {
    for good in ["", "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE", "a=1, b=2 ,", "fw529a3039@dt=FfAAAA", "0vendor=x y"] {
        assert!(is_tracestate(good.as_bytes()), "{good}");
    }
    let many = (0..33).map(|i| format!("k{i}=v")).collect::<Vec<_>>().join(",");
    for bad in ["novalue", "A=1", "a=1,a=2", "a==", "a@1b=1", "=1", &many, "a=\u{e9}"] {
        assert!(!is_tracestate(bad.as_bytes()), "{bad}");
    }
}

#[test]
fn a_tracestate_is_bounded_in_all_its_parts() {
    let repeated = |text: &str, n| text.repeat(n);
    let members = |n: usize| (0..n).map(|i| format!("k{i}=v")).collect::<Vec<_>>().join(",");
    for (good, bad) in [
        (members(32), members(33)),
        (format!("{}=v", repeated("k", 256)), format!("{}=v", repeated("k", 257))),
        (format!("k={}", repeated("v", 256)), format!("k={}", repeated("v", 257))),
        (format!("{}@s=v", repeated("t", 241)), format!("{}@s=v", repeated("t", 242))),
        (format!("t@{}=v", repeated("s", 14)), format!("t@{}=v", repeated("s", 15))),
        (
            format!("a={},b={}", repeated("v", 254), repeated("v", 253)),
            format!("a={},b={}", repeated("v", 254), repeated("v", 254)),
        ),
        ("a_b-c*d/e=v".into(), "_a=v".into()),
        ("0a@s0_-*/=v".into(), "t@0s=v".into()),
        ("a= ~v".into(), "a=v\u{7f}".into()),
        ("a=v".into(), "a=".into()),
        ("t@s=v".into(), "@s=v".into()),
        ("ta@s=v".into(), "t@=v".into()),
        ("a=v".into(), "aB=v".into()),
        ("a=1,b=2,c=3".into(), "a=1,b=2,a=3".into()),
        ("a=1,b=2".into(), "a=1,b".into()),
    ] {
        assert!(is_tracestate(good.as_bytes()), "{good}");
        assert!(!is_tracestate(bad.as_bytes()), "{bad}");
    }
}

#[test]
fn a_request_id_is_a_version_four_uuid() {
    assert_eq!(&*request_id([0, 0]), "00000000-0000-4000-8000-000000000000");
    assert_eq!(&*request_id([u64::MAX, u64::MAX]), "ffffffff-ffff-4fff-bfff-ffffffffffff");
    assert!(
        is_request_id(b"order-7")
            && is_request_id(&[b'x'; 128])
            && !is_request_id(b"")
            && !is_request_id(b"a b")
            && !is_request_id(&[b'x'; 129])
    );
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(trace in 1..=u128::MAX, span in 1..=u64::MAX, parent in prop::option::of(1..=u64::MAX), sampled in any::<bool>(), debug in any::<bool>(), format in 0..3) {
        let formats = Formats { w3c: format == 0, b3_single: format == 1, b3_multi: format == 2 };
        let context = Context { trace_id: trace, span_id: span, parent_id: parent, sampled: Some(sampled), debug };
        let headers = written(&context, formats);
        let back = read(|name| headers.get(name.as_str()).map(String::as_bytes));
        let back_context = back.context.unwrap();
        prop_assert_eq!(back.formats, formats);
        prop_assert_eq!((back_context.trace_id, back_context.span_id), (trace, span));
        prop_assert_eq!(back_context.is_sampled(), sampled || debug);
        if format > 0 {
            prop_assert_eq!(back_context.parent_id, parent);
        }
    }

    #[test]
    fn nothing_that_arrives_panics(value in prop::collection::vec(any::<u8>(), 0..80)) {
        read(|_| Some(&value));
        is_tracestate(&value);
        is_request_id(&value);
    }
}

#[test]
fn digits_are_read_as_they_are_written_and_nothing_else_is() {
    for number in [0, 1, 0x0123_4567_89ab_cdef_fedc_ba98_7654_3210, u128::MAX, 1 << 127, 0xa0] {
        let text = digits::<32>(number);
        assert_eq!(text, format!("{number:032x}").as_bytes());
        assert_eq!(hex(&text), Some(number));
    }
    let all = "fedcba9876543210aaff00990123456789";
    for length in 0..=all.len() {
        let expected = u128::from_str_radix(&all[..length], 16).ok();
        assert_eq!(hex(&all.as_bytes()[..length]), expected, "{length} digits");
    }
    for at in 0..16 {
        for byte in 0..=u8::MAX {
            let mut text = *b"0123456789abcdef";
            text[at] = byte;
            let valid = byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
            let expected =
                std::str::from_utf8(&text).ok().filter(|_| valid).map(|t| u128::from_str_radix(t, 16).unwrap());
            assert_eq!(hex(&text), expected, "{text:?}");
        }
    }
}

#[test]
fn a_share_of_the_traces_is_recorded_and_the_same_ones_by_everybody() {
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut draw = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        u128::from(random) << 64 | u128::from(random.rotate_left(29) ^ random >> 7)
    };
    let ids: Vec<u128> = (0..100_000).map(|_| draw()).collect();
    let held = |share: f64| ids.iter().filter(|id| Ratio::new(share).holds(**id)).count();
    assert_eq!((held(0.0), held(1.0), held(2.0), held(-1.0), held(f64::NAN)), (0, 100_000, 100_000, 0, 0));
    assert!((9_000..11_000).contains(&held(0.1)), "{}", held(0.1));
    assert!(ids.iter().all(|id| !Ratio::new(0.1).holds(*id) || Ratio::new(0.3).holds(*id)));
    assert_eq!(Ratio::of_threshold(Ratio::new(0.25).threshold()), Ratio::new(0.25));
    assert!(Ratio::new(1.0).holds(u128::MAX) && !Ratio::new(0.5).holds(1 << 63));
}
