//! The two messages of the gRPC health checking protocol (`grpc.health.v1`), by hand: one string and one number.

/// The body of a `grpc.health.v1.HealthCheckRequest` for a service name, as one gRPC message (gRPC over HTTP/2,
/// “Length-Prefixed-Message”). Names are at most 16,383 bytes long; the rest is cut off.
pub fn grpc_request(service: &str) -> Vec<u8> {
    let name = service.as_bytes().get(..service.len().min(0x3FFF)).unwrap_or_default();
    let mut message = Vec::with_capacity(name.len() + 8);
    if !name.is_empty() {
        // Field 1, a string; its length in one or two groups of seven bits.
        message.push(0x0A);
        if name.len() >= 0x80 {
            message.extend([(name.len() & 0x7F) as u8 | 0x80, (name.len() >> 7) as u8]);
        } else {
            message.push(name.len() as u8);
        }
        message.extend(name);
    }
    let mut body = vec![0];
    body.extend((message.len() as u32).to_be_bytes());
    body.extend(message);
    body
}

/// Whether a response body is one uncompressed `grpc.health.v1.HealthCheckResponse` whose status is `SERVING`. Anything
/// else, malformed messages included, is not.
pub fn grpc_is_serving(body: &[u8]) -> bool {
    const SERVING: u64 = 1;
    let Some((head, message)) = body.split_first_chunk::<5>() else { return false };
    let [compressed, length @ ..] = *head;
    if compressed != 0 || u32::from_be_bytes(length) as usize != message.len() {
        return false;
    }
    status(message) == Some(SERVING)
}

/// The last value of field 1, as protobuf has it; 0 when there is none, `None` when the message is malformed.
fn status(mut message: &[u8]) -> Option<u64> {
    let mut status = 0;
    while !message.is_empty() {
        let key = varint(&mut message)?;
        match (key >> 3, key & 7) {
            (1, 0) => status = varint(&mut message)?,
            (_, 0) => drop(varint(&mut message)?),
            (_, 1) => message = message.get(8..)?,
            (_, 2) => {
                let length = usize::try_from(varint(&mut message)?).ok()?;
                message = message.get(length..)?;
            }
            (_, 5) => message = message.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = message.split_first()?;
        *message = rest;
        value |= u64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn requests_and_responses_are_as_the_protocol_has_them() {
        assert_eq!(grpc_request(""), [0, 0, 0, 0, 0]);
        assert_eq!(grpc_request("ab"), [0, 0, 0, 0, 4, 0x0A, 2, b'a', b'b']);
        assert_eq!(grpc_request(&"x".repeat(300))[..8], [0, 0, 0, 1, 47, 0x0A, 0xAC, 2]);
        for (message, serving) in [
            (&[8, 1][..], true),
            (&[], false),
            (&[8, 2], false),
            (&[8, 2, 8, 1], true),
            (&[0x12, 1, 9, 8, 1], true),
            (&[8], false),
            (&[0x12, 9, 8, 1], false),
            (&[0xFF; 12], false),
            (&[0x0B, 8, 1], false),
            // Fields that nobody here knows, of every type that may be skipped.
            (&[0x10, 0x80, 9, 8, 1], true),
            (&[0x11, 1, 2, 3, 4, 5, 6, 7, 8, 8, 1], true),
            (&[0x15, 1, 2, 3, 4, 8, 1], true),
            (&[8, 0x81, 0], true),
            (&[8, 0x81, 1], false),
        ] {
            let mut body = vec![0, 0, 0, 0, message.len() as u8];
            body.extend(message);
            assert_eq!(grpc_is_serving(&body), serving, "{message:?}");
            body[0] = 1;
            assert!(!grpc_is_serving(&body), "compressed");
        }
        assert!(!grpc_is_serving(&[0, 0, 0, 0, 3, 8, 1]) && !grpc_is_serving(b""));
    }

    proptest! {
        #[test]
        fn a_response_is_judged_whatever_its_bytes_are(body in prop::collection::vec(any::<u8>(), 0..40)) {
            grpc_is_serving(&body);
        }
    }
}
