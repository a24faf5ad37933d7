//! The types that travel over xDS: their type URLs and the version of an encoded resource.

use crate::v1;
use prost::Message;
use prost_types::Any;

/// A message that is an xDS resource.
pub trait Resource: Message + Default {
    /// `type.googleapis.com/weft.v1.<Message>`.
    const TYPE_URL: &'static str;

    /// Packs the message, deterministically: fields in order, maps sorted.
    fn to_any(&self) -> Any {
        Any { type_url: Self::TYPE_URL.to_owned(), value: self.encode_to_vec() }
    }

    /// Unpacks a message.
    ///
    /// # Errors
    /// When the type URL is another or the bytes do not decode.
    fn from_any(any: &Any) -> Result<Self, prost::DecodeError> {
        if any.type_url != Self::TYPE_URL {
            return Err(prost::DecodeError::new_unexpected_type_url(&any.type_url, Self::TYPE_URL));
        }
        Self::decode(any.value.as_slice())
    }
}

/// Type URLs of the resources, in the order in which a client subscribes.
pub mod type_url {
    /// `weft.v1.Service`
    pub const SERVICE: &str = "type.googleapis.com/weft.v1.Service";
    /// `weft.v1.Endpoints`
    pub const ENDPOINTS: &str = "type.googleapis.com/weft.v1.Endpoints";
    /// `weft.v1.Inbound`
    pub const INBOUND: &str = "type.googleapis.com/weft.v1.Inbound";
    /// `weft.v1.TrustBundle`
    pub const TRUST_BUNDLE: &str = "type.googleapis.com/weft.v1.TrustBundle";
    /// `weft.v1.MeshSettings`
    pub const MESH_SETTINGS: &str = "type.googleapis.com/weft.v1.MeshSettings";
    /// `weft.v1.ResourceRefusal`, only in `error_detail.details`
    pub const RESOURCE_REFUSAL: &str = "type.googleapis.com/weft.v1.ResourceRefusal";
}

macro_rules! resources {
    ($($message:ty => $url:expr),+ $(,)?) => {
        $(impl Resource for $message { const TYPE_URL: &'static str = $url; })+
    };
}

resources! {
    v1::Service => type_url::SERVICE,
    v1::Endpoints => type_url::ENDPOINTS,
    v1::Inbound => type_url::INBOUND,
    v1::TrustBundle => type_url::TRUST_BUNDLE,
    v1::MeshSettings => type_url::MESH_SETTINGS,
    v1::ResourceRefusal => type_url::RESOURCE_REFUSAL,
}

/// The version of an encoded resource: FNV-1a (128 bit) of its bytes, in hexadecimal. Equal resources have equal versions on every
/// replica and after every restart; it is not a security boundary.
#[must_use]
pub fn version_of(encoded: &[u8]) -> String {
    format!("{:032x}", hash_of(encoded))
}

/// The hash that a version is written as.
#[must_use]
pub fn hash_of(encoded: &[u8]) -> u128 {
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    encoded.iter().fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d_u128, |h, b| (h ^ u128::from(*b)).wrapping_mul(PRIME))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resource_survives_the_trip_through_any_and_another_type_is_refused() {
        let service = v1::Service { name: "shop/catalog".into(), ..Default::default() };
        let any = service.to_any();
        assert_eq!(v1::Service::from_any(&any).unwrap(), service);
        assert!(v1::Endpoints::from_any(&any).is_err());
    }

    #[test]
    fn equal_resources_have_equal_versions_and_different_ones_differ() {
        let a = v1::Service { name: "shop/catalog".into(), ..Default::default() };
        let b = v1::Service { name: "shop/orders".into(), ..Default::default() };
        assert_eq!(version_of(&a.encode_to_vec()), version_of(&a.clone().encode_to_vec()));
        assert_ne!(version_of(&a.encode_to_vec()), version_of(&b.encode_to_vec()));
    }
}
