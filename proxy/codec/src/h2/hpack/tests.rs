//! The examples of RFC 7541 appendix C, and both ends against each other.

use super::decode::Malformed;
use super::encode::Nature;
use super::*;
use http::header;
use proptest::prelude::*;

type Fields = Vec<(String, Vec<u8>)>;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter_map(|b| char::from(b).to_digit(16)).map(|d| d as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn decoded(decoder: &mut Decoder, block: &[u8]) -> Result<Fields, Malformed> {
    let mut fields = Vec::new();
    decoder.decode(block, usize::MAX, |name, value| fields.push((name.as_str().to_owned(), value.to_vec())))?;
    Ok(fields)
}

fn shown(decoder: &mut Decoder, block: &str) -> String {
    let fields = decoded(decoder, &hex(block)).expect("a block");
    fields.iter().map(|(name, value)| format!("{name}={}\n", String::from_utf8_lossy(value))).collect()
}

#[test]
fn requests_of_the_appendix_decode() {
    let plain = [
        "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "8286 84be 5808 6e6f 2d63 6163 6865",
        "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
    ];
    let coded = [
        "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
        "8286 84be 5886 a8eb 1064 9cbf",
        "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
    ];
    for blocks in [plain, coded] {
        let mut decoder = Decoder::default();
        let begin = ":method=GET\n:scheme=http\n:path=/\n:authority=www.example.com\n";
        assert_eq!(shown(&mut decoder, blocks[0]), begin);
        assert_eq!(shown(&mut decoder, blocks[1]), format!("{begin}cache-control=no-cache\n"));
        let last =
            ":method=GET\n:scheme=https\n:path=/index.html\n:authority=www.example.com\ncustom-key=custom-value\n";
        assert_eq!(shown(&mut decoder, blocks[2]), last);
        assert_eq!(decoder.size(), 164);
    }
}

#[test]
fn responses_of_the_appendix_decode_with_evictions() {
    let plain = [
        "3fe1 01 4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3120
         474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "4803 3330 37c1 c0bf",
        "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a 6970 7738 666f
         6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b
         2076 6572 7369 6f6e 3d31",
    ];
    let coded = [
        "3fe1 01 4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718
         63c7 8f0b 97c8 e9ae 82ae 43d3",
        "4883 640e ffc1 c0bf",
        "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7 b335
         dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
    ];
    for blocks in [plain, coded] {
        let mut decoder = Decoder::default();
        let date = |second| format!("date=Mon, 21 Oct 2013 20:13:2{second} GMT\n");
        let rest = "location=https://www.example.com\n";
        let first = format!(":status=302\ncache-control=private\n{}{rest}", date(1));
        assert_eq!(shown(&mut decoder, blocks[0]), first);
        let second = format!(":status=307\ncache-control=private\n{}{rest}", date(1));
        assert_eq!(shown(&mut decoder, blocks[1]), second);
        let cookie = "set-cookie=foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1\n";
        let third = format!(":status=200\ncache-control=private\n{}{rest}content-encoding=gzip\n{cookie}", date(2));
        assert_eq!(shown(&mut decoder, blocks[2]), third);
        assert_eq!(decoder.size(), 215);
    }
}

#[test]
fn what_is_no_block_is_refused() {
    for block in [
        "80",                   // index 0
        "be",                   // an index beyond the table
        "ff ff ff ff ff ff 01", // an integer without an end
        "40 05 6162",           // a name that is cut off
        "00 01 61",             // no value
        "00 81 ff 00",          // padding that is too long
        "00 84 ffff fffc 00",   // EOS
        "3f e2 1f",             // a table larger than ours
        "82 20",                // a size behind a field
        "00 01 61 82 f8 00",    // padding of zeros
    ] {
        assert_eq!(decoded(&mut Decoder::default(), &hex(block)), Err(Malformed), "{block}");
    }
}

#[test]
fn names_that_are_none_are_told_and_stay_in_the_table() {
    let mut decoder = Decoder::default();
    let mut names = Vec::new();
    let block = hex("40 01 41 01 31 40 02 3a78 01 31 be bf");
    decoder.decode(&block, usize::MAX, |name, _| names.push(name)).expect("a block");
    assert_eq!(names, [Name::Bad, Name::Bad, Name::Bad, Name::Bad]);
}

#[test]
fn a_bomb_is_cut_off_at_the_limit() {
    let mut decoder = Decoder::default();
    let mut block = hex("40 01 61 7f 80 1f");
    block.extend(std::iter::repeat_n(b'x', 127 + 31 * 128));
    let large = block.len();
    block.extend(std::iter::repeat_n(0xbe, 10_000));
    let mut handed = 0;
    // The entry is larger than the table: it is not kept, and nothing can refer to it.
    assert_eq!(decoder.decode(&block, 1 << 16, |_, value| handed += value.len()), Err(Malformed));
    let mut block = block[..large - 200].to_vec();
    block[4] = 0xb8; // 200 less
    block[5] = 0x1d;
    block.extend(std::iter::repeat_n(0xbe, 10_000));
    handed = 0;
    let size = decoder.decode(&block, 1 << 16, |_, value| handed += value.len()).expect("a block");
    assert!(size > 30 << 20 && handed <= 1 << 16, "{size} {handed}");
}

fn encoded(encoder: &mut Encoder, fields: &[(Name, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    encoder.begin(&mut out);
    for (name, value) in fields {
        match name {
            Name::Header(name) => encoder.header(&mut out, name, value, Nature::of(name)),
            pseudo => encoder.pseudo(&mut out, pseudo, value),
        }
    }
    out
}

#[test]
fn what_recurs_becomes_one_byte_and_secrets_never_do() {
    let mut encoder = Encoder::default();
    let agent = [(Name::Header(header::USER_AGENT), &b"curl/8"[..])];
    assert_eq!(encoded(&mut encoder, &agent).len(), 9, "seen once");
    assert_eq!(encoded(&mut encoder, &agent).len(), 8, "indexed");
    assert_eq!(encoded(&mut encoder, &agent), [0x80 | 62]);
    let cookie = [(Name::Header(header::COOKIE), &b"id=1"[..])];
    for _ in 0..3 {
        let block = encoded(&mut encoder, &cookie);
        assert_eq!((block[0], block.len()), (0x1f, 7), "never indexed");
    }
    let id = Name::Header(HeaderName::from_static("x-request-id"));
    let whole = encoded(&mut encoder, &[(id.clone(), b"1")]).len();
    for value in [b"2", b"3", b"3"] {
        assert_eq!(encoded(&mut encoder, &[(id.clone(), value)]).len(), 4, "its name is indexed: {whole}");
    }
}

#[test]
fn the_peer_may_shrink_the_table() {
    let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
    let agent = [(Name::Header(header::USER_AGENT), &b"curl/8"[..])];
    for max in [4096, 0, 4096, 50, 60, 8192] {
        encoder.resize(max);
        for _ in 0..3 {
            let block = encoded(&mut encoder, &agent);
            assert_eq!(decoded(&mut decoder, &block).expect("a block")[0].1, b"curl/8");
            assert!(decoder.size() <= max);
        }
    }
    encoder.resize(0);
    encoder.resize(4096);
    assert_eq!(encoded(&mut encoder, &agent)[..4], [0x20, 0x3f, 0xe1, 0x1f], "the lowest, then the last");
}

fn name() -> impl Strategy<Value = Name> {
    prop_oneof![
        Just(Name::Path),
        Just(Name::Authority),
        Just(Name::Status),
        Just(Name::Header(header::CONTENT_TYPE)),
        Just(Name::Header(header::SET_COOKIE)),
        Just(Name::Header(HeaderName::from_static("traceparent"))),
        "[a-d]{1,3}".prop_map(|text| Name::read(text.as_bytes())),
    ]
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => "[a-c]{0,2}".prop_map(String::into_bytes),
        1 => proptest::collection::vec(any::<u8>(), 0..300),
        1 => proptest::collection::vec(any::<u8>(), 0..2000),
    ]
}

proptest! {
    #[test]
    fn what_is_encoded_decodes(
        blocks in proptest::collection::vec((proptest::collection::vec((name(), value()), 0..40), 0usize..6000), 1..20)
    ) {
        let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
        for (fields, resize) in &blocks {
            if resize % 3 == 0 {
                encoder.resize(*resize);
            }
            let borrowed: Vec<_> = fields.iter().map(|(name, value)| (name.clone(), &value[..])).collect();
            let block = encoded(&mut encoder, &borrowed);
            let expected: Fields = fields.iter().map(|(n, v)| (n.as_str().to_owned(), v.clone())).collect();
            prop_assert_eq!(decoded(&mut decoder, &block), Ok(expected));
        }
    }

    #[test]
    fn huffman_codes_decode_and_their_prefixes_do_not_panic(text in proptest::collection::vec(any::<u8>(), 0..300)) {
        let coded = huffman::encode(&text);
        let mut out = Vec::new();
        prop_assert_eq!(huffman::decode(&coded, &mut out), Some(()));
        prop_assert_eq!(&out, &text);
        for end in 0..coded.len() {
            let _ = huffman::decode(&coded[..end], &mut Vec::new());
        }
    }

    #[test]
    fn any_bytes_are_a_block_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut decoder = Decoder::default();
        let _ = decoded(&mut decoder, &bytes);
        prop_assert!(decoder.size() <= TABLE);
        let _ = huffman::decode(&bytes, &mut Vec::new());
    }
}
