//! Interception as a pod has it: rules that `weft-proxy intercept` puts in force before the sidecar runs, without privileges, under a
//! user of its own. In network namespaces; needs root.

mod pod;
mod rules;
