//! `--isolation none`: HTTP and gRPC clients go through `http_proxy`, TCP clients through named outbounds. No privileges.

use crate::place::Place;
use crate::programs;

#[test]
fn python_http_server_answers_curl() {
    programs::python_http_server_and_curl(&Place::explicit());
}

#[test]
fn nginx_answers_curl() {
    programs::nginx_and_curl(&Place::explicit());
}

#[test]
fn redis_answers_its_client() {
    programs::redis(&Place::explicit());
}

#[test]
fn postgresql_answers_its_client() {
    programs::postgresql(&Place::explicit());
}

#[test]
fn mariadb_speaks_first_on_its_well_known_port() {
    programs::mariadb(&Place::explicit(), "maria", 3306, "tcp");
}

#[test]
fn mariadb_speaks_first_on_a_port_that_nobody_declared() {
    programs::mariadb(&Place::explicit(), "ledger", 7000, "");
}

#[test]
fn grpcio_streams_in_all_four_ways() {
    programs::python_grpc(&Place::explicit());
}
