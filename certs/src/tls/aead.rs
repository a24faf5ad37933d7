//! Which implementation of AES-GCM seals the records. Keys, signatures and hashes of certificates are aws-lc's on every machine.
//!
//! aws-lc is the fastest where there is AVX-512 (by 1.2 to 1.4 in records of 16 KiB), and has nothing between that and plain AES-NI. ring
//! uses the wide AES instructions (VAES) with AVX2 as well, which on processors that have those but no AVX-512 makes it 1.5 to 1.9 times as
//! fast as aws-lc. Everywhere else the two are alike.

use std::sync::OnceLock;

use rustls::SupportedCipherSuite;
use rustls::crypto::{aws_lc_rs, ring};

/// Whose AES-GCM is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aead {
    /// aws-lc's.
    AwsLc,
    /// ring's.
    Ring,
}

impl Aead {
    /// As settings and the log name it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::AwsLc => "aws-lc",
            Self::Ring => "ring",
        }
    }

    /// The faster one on this machine.
    #[must_use]
    pub fn fastest() -> Self {
        Self::by_features(&Features::detect())
    }

    const fn by_features(features: &Features) -> Self {
        if features.wide && !features.avx512 { Self::Ring } else { Self::AwsLc }
    }

    /// TLS_AES_128_GCM_SHA256 first: SHA-384 costs a tenth of a handshake and gains nothing here.
    pub(super) fn suites(self) -> Vec<SupportedCipherSuite> {
        let [short, long] = match self {
            Self::AwsLc => {
                use aws_lc_rs::cipher_suite as suite;
                [suite::TLS13_AES_128_GCM_SHA256, suite::TLS13_AES_256_GCM_SHA384]
            }
            Self::Ring => {
                use ring::cipher_suite as suite;
                [suite::TLS13_AES_128_GCM_SHA256, suite::TLS13_AES_256_GCM_SHA384]
            }
        };
        vec![short, long, aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256]
    }
}

static CHOSEN: OnceLock<Aead> = OnceLock::new();

/// Settles whose AES-GCM this process uses: `wanted`, else the fastest. Says what it is, which is the choice of the first who asked.
pub fn choose_aead(wanted: Option<Aead>) -> Aead {
    *CHOSEN.get_or_init(|| wanted.unwrap_or_else(Aead::fastest))
}

/// What the processor has.
struct Features {
    /// VAES and VPCLMULQDQ with AVX2, as ring wants them.
    wide: bool,
    /// The parts of AVX-512 that aws-lc wants.
    avx512: bool,
}

impl Features {
    #[cfg(target_arch = "x86_64")]
    fn detect() -> Self {
        use std::is_x86_feature_detected as has;
        Self {
            wide: has!("vaes") && has!("vpclmulqdq") && has!("avx2"),
            avx512: has!("avx512f") && has!("avx512dq") && has!("avx512bw") && has!("avx512vl"),
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    const fn detect() -> Self {
        Self { wide: false, avx512: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_wide_instructions_without_avx512_speak_for_ring() {
        for (wide, avx512, expected) in [
            (false, false, Aead::AwsLc),
            (true, true, Aead::AwsLc),
            (true, false, Aead::Ring),
            (false, true, Aead::AwsLc),
        ] {
            assert_eq!(Aead::by_features(&Features { wide, avx512 }), expected, "wide {wide}, AVX-512 {avx512}");
        }
    }

    #[test]
    fn both_offer_the_same_suites_in_the_same_order() {
        let names = |aead: Aead| aead.suites().iter().map(|suite| suite.suite()).collect::<Vec<_>>();
        assert_eq!(names(Aead::AwsLc), names(Aead::Ring));
        assert_eq!(names(Aead::Ring)[0], rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
    }
}
