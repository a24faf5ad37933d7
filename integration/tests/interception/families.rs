//! Machines with IPv4 alone, and listeners of either family beside each other.

use crate::injected::inject;
use crate::mesh::get;
use crate::pod::{Cable, resources};
use std::process::Command;
use weft_integration::rig::{Process, program, run, wait_for};

/// Runs a program as on a kernel that was started without IPv6: sockets of that family are refused with EAFNOSUPPORT, by a filter of
/// system calls (seccomp(2)) that what it starts inherits. A machine of 64 bits is meant.
const WITHOUT_IPV6: &str = "
import ctypes, os, platform, struct, sys
socket_call = {'x86_64': 41, 'aarch64': 198}[platform.machine()]
def op(code, jump_true, jump_false, value): return struct.pack('HBBI', code, jump_true, jump_false, value)
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
program = b''.join([
  op(LOAD, 0, 0, 0), op(EQUAL, 0, 3, socket_call),
  op(LOAD, 0, 0, 16), op(EQUAL, 0, 1, 10),
  op(RETURN, 0, 0, 0x00050000 | 97), op(RETURN, 0, 0, 0x7fff0000)])
code = ctypes.create_string_buffer(program)
class Filter(ctypes.Structure): _fields_ = [('length', ctypes.c_ushort), ('code', ctypes.c_void_p)]
libc = ctypes.CDLL(None, use_errno=True)
filter = Filter(len(program) // 8, ctypes.addressof(code))
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.byref(filter), 0, 0) == 0, ctypes.get_errno()
os.execv(sys.argv[1], sys.argv[1:])
";

fn without_ipv6(command: &Command) -> Command {
    let mut wrapped = Command::new(program("python3"));
    wrapped.args(["-c", WITHOUT_IPV6]).arg(command.get_program()).args(command.get_args());
    wrapped
}

const RESOURCES: &str = "
settings: {trustDomain: weft.local, domain: cluster.local}
inbound:
  workload: shop/cart
  identity: spiffe://weft.local/ns/shop/sa/cart
  ports:
  - {port: 9000, local: '192.0.2.1:9000', protocol: PROTOCOL_HTTP1, service: shop/cart, tls: TLS_MODE_DISABLED}
";

fn application(cable: &Cable, folder: &std::path::Path, bind: &str) -> Process {
    std::fs::write(folder.join("name"), "cart").unwrap();
    let words = ["-m", "http.server", "9000", "--bind", bind, "--directory", folder.to_str().unwrap()];
    let server = Process::start(folder, "application", &mut cable.pod.command(program("python3"), &words));
    wait_for("the application answers", || get(&cable.pod, "http://192.0.2.1:9000/name").map(drop));
    server
}

#[test]
fn an_injected_pod_works_on_a_machine_without_ipv6_and_the_log_says_so() {
    for mode in ["REDIRECT", "TPROXY"] {
        let cable = Cable::new();
        let (folder, file) = resources(RESOURCES);
        let injected = inject("cart", &format!("config.weft.mesh/interception-mode: {mode}"), "ports: []");
        run(&mut without_ipv6(&injected.install(&cable.pod))).ok();
        let more = ["--resources", file.to_str().unwrap()];
        let mut command = without_ipv6(&injected.sidecar(&cable.pod, "cart", "192.0.2.1", &more));
        let mut sidecar = Process::start(folder.path(), "sidecar", &mut command);
        wait_for("the sidecar is ready", || {
            sidecar.assert_running();
            get(&cable.world, "http://192.0.2.1:15021/ready").map(drop)
        });
        let _application = application(&cable, folder.path(), "0.0.0.0");
        assert_eq!(get(&cable.world, "http://192.0.2.1:9000/name").unwrap(), "cart");
        assert!(sidecar.log().contains("there is no IPv6 here: listens on IPv4 alone"), "{}", sidecar.log());
        assert_eq!(sidecar.stop(), 0);
    }
}

#[test]
fn where_ipv6_is_switched_off_in_a_namespace_rules_and_sidecar_do_without() {
    let cable = Cable::new();
    crate::lab::sysctl(&cable.pod, "net.ipv6.conf.all.disable_ipv6=1");
    crate::lab::sysctl(&cable.pod, "net.ipv6.conf.lo.disable_ipv6=1");
    let (folder, file) = resources(RESOURCES);
    let injected = inject("cart", "config.weft.mesh/interception-mode: TPROXY", "ports: []");
    run(&mut injected.install(&cable.pod)).ok();
    let more = ["--resources", file.to_str().unwrap()];
    let mut command = injected.sidecar(&cable.pod, "cart", "192.0.2.1", &more);
    let mut sidecar = Process::start(folder.path(), "sidecar", &mut command);
    wait_for("the sidecar is ready", || {
        sidecar.assert_running();
        get(&cable.world, "http://192.0.2.1:15021/ready").map(drop)
    });
    let _application = application(&cable, folder.path(), "0.0.0.0");
    assert_eq!(get(&cable.world, "http://192.0.2.1:9000/name").unwrap(), "cart");
    let remove = run(&mut cable.pod.command(weft_integration::rig::binary("weft-proxy"), &["intercept", "remove"]));
    remove.ok();
}

#[test]
fn a_listener_of_ipv4_has_one_of_ipv6_beside_it_for_what_is_redirected_there() {
    for mode in ["REDIRECT", "TPROXY"] {
        let cable = Cable::new();
        let (folder, file) = resources(RESOURCES);
        let injected = inject("cart", &format!("config.weft.mesh/interception-mode: {mode}"), "ports: []");
        run(&mut injected.install(&cable.pod)).ok();
        let more = ["--resources", file.to_str().unwrap()];
        let command = injected.sidecar(&cable.pod, "cart", "192.0.2.1", &more);
        // As somebody writes it who thinks of IPv4.
        let words = command.get_args().map(|word| word.to_str().unwrap().replace("[::]", "0.0.0.0"));
        let words: Vec<String> = words.collect();
        assert!(words.contains(&"--plaintext=0.0.0.0:15006".to_owned()), "{words:?}");
        let mut sidecar = Process::start(folder.path(), "sidecar", Command::new(command.get_program()).args(words));
        wait_for("the sidecar is ready", || {
            sidecar.assert_running();
            get(&cable.world, "http://192.0.2.1:15021/ready").map(drop)
        });
        let _application = application(&cable, folder.path(), "::");
        for address in ["192.0.2.1", "[2001:db8::1]"] {
            assert_eq!(get(&cable.world, &format!("http://{address}:9000/name")).unwrap(), "cart", "{mode} {address}");
        }
    }
}
