//! Part of reaching an endpoint.
