//! `--isolation netns`: each program in a network namespace of its own, with an address, names and transparent interception. Needs root.

use crate::place::Place;
use crate::programs;

#[test]
fn python_http_server_answers_curl_transparently() {
    programs::python_http_server_and_curl(&Place::transparent());
}

#[test]
fn nginx_answers_curl_transparently() {
    programs::nginx_and_curl(&Place::transparent());
}

#[test]
fn redis_answers_its_client_transparently() {
    programs::redis(&Place::transparent());
}

#[test]
fn postgresql_answers_its_client_transparently() {
    programs::postgresql(&Place::transparent());
}

#[test]
fn mariadb_speaks_first_on_its_well_known_port_transparently() {
    programs::mariadb(&Place::transparent(), "maria", 3306, "tcp");
}

#[test]
fn mariadb_speaks_first_on_a_port_that_nobody_declared_transparently() {
    programs::mariadb(&Place::transparent(), "ledger", 7000, "");
}

#[test]
fn grpcio_streams_in_all_four_ways_transparently() {
    programs::python_grpc(&Place::transparent());
}
