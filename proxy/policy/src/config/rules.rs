//! `weft.v1.Route`: checks routes and compiles them into a [`crate::route::Table`].
