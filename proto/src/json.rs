//! The canonical protobuf JSON mapping (protobuf.dev/programming-guides/json) of the messages, through their descriptors: camelCase
//! names, durations as `"1.500s"`, enums by name, bytes in base64, unknown fields refused. Used for files and dumps, never per request.

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, ReflectMessage, SerializeOptions};
use serde::{Deserializer, Serializer};
use std::sync::{Arc, Mutex, PoisonError, Weak};

static POOL: Mutex<Weak<DescriptorPool>> = Mutex::new(Weak::new());

/// The decoded descriptors. Several hundred KiB that are needed now and then: they are shared while anybody holds one, and gone after.
#[derive(Clone, Debug)]
pub struct Descriptors(Arc<DescriptorPool>);

impl Descriptors {
    /// Those that somebody holds already, or new ones.
    ///
    /// # Errors
    /// Never for what this crate was built with.
    pub fn get() -> Result<Self, String> {
        let mut shared = POOL.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = shared.upgrade() {
            return Ok(Self(pool));
        }
        let pool = Arc::new(DescriptorPool::decode(crate::DESCRIPTORS).map_err(|e| e.to_string())?);
        *shared = Arc::downgrade(&pool);
        Ok(Self(pool))
    }
}

fn descriptor<E>(name: &str, custom: impl Fn(String) -> E) -> Result<prost_reflect::MessageDescriptor, E> {
    let pool = Descriptors::get().map_err(&custom)?.0;
    pool.get_message_by_name(name).ok_or_else(|| custom(format!("no message is named {name}")))
}

/// Reads a message named `name` ("weft.v1.Resources") from JSON or YAML.
///
/// # Errors
/// The deserializer's error: unknown field, wrong type, malformed input.
pub fn deserialize<'de, M, D>(name: &str, input: D) -> Result<M, D::Error>
where
    M: Message + Default,
    D: Deserializer<'de>,
{
    use serde::de::Error;
    let dynamic = DynamicMessage::deserialize(descriptor(name, D::Error::custom)?, input)?;
    dynamic.transcode_to().map_err(D::Error::custom)
}

/// Writes a message named `name`; fields at their default are left out.
///
/// # Errors
/// The serializer's error, or when `message` is not of that type.
pub fn serialize<M, S>(name: &str, message: &M, output: S) -> Result<S::Ok, S::Error>
where
    M: Message,
    S: Serializer,
{
    use serde::ser::Error;
    let mut dynamic = DynamicMessage::new(descriptor(name, S::Error::custom)?);
    dynamic.merge(message.encode_to_vec().as_slice()).map_err(S::Error::custom)?;
    debug_assert_eq!(dynamic.descriptor().full_name(), name);
    dynamic.serialize_with_options(output, &SerializeOptions::new())
}

#[cfg(test)]
mod tests {
    use crate::v1;

    #[test]
    fn resources_read_from_json_with_camel_case_names_and_durations() {
        let text = r#"{"services":[{"name":"shop/catalog","ports":[{"port":80,"protocol":"PROTOCOL_HTTP1",
            "frontend":{"requestTimeout":"1.500s"}}]}]}"#;
        let read: v1::Resources =
            super::deserialize("weft.v1.Resources", &mut serde_json::Deserializer::from_str(text)).unwrap();
        let frontend = read.services[0].ports[0].frontend.as_ref().unwrap();
        assert_eq!(frontend.request_timeout.unwrap().nanos, 500_000_000);
        let written = super::serialize("weft.v1.Resources", &read, serde_json::value::Serializer).unwrap();
        assert_eq!(written, serde_json::from_str::<serde_json::Value>(text).unwrap());
    }

    #[test]
    fn an_unknown_field_is_refused_by_name() {
        let text = r#"{"services":[{"nmae":"shop/catalog"}]}"#;
        let error =
            super::deserialize::<v1::Resources, _>("weft.v1.Resources", &mut serde_json::Deserializer::from_str(text))
                .unwrap_err();
        assert!(error.to_string().contains("nmae"), "{error}");
    }
}
