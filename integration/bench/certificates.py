"""Certificates of the peers: one ECDSA P-256 root, and for each name a leaf with the SPIFFE id of its service account (and a DNS name, which nginx insists on)."""

import shutil

from rig import TRUST_DOMAIN, run


def make(folder, names):
    folder.mkdir()
    root_key, root = folder / "root.key", folder / "roots.pem"
    openssl = lambda *words: run(["openssl", *words])
    openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", root_key)
    openssl("req", "-x509", "-new", "-key", root_key, "-subj", "/CN=bench root", "-days", 2, "-out", root,
            "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign")
    for name in names:
        at = folder / name
        at.mkdir()
        sec1, key, csr, extensions = at / "sec1.pem", at / "key.pem", at / "csr.pem", at / "extensions"
        openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", sec1)
        openssl("pkcs8", "-topk8", "-nocrypt", "-in", sec1, "-out", key)
        openssl("req", "-new", "-key", key, "-subj", "/", "-out", csr)
        extensions.write_text(
            f"subjectAltName=critical,URI:spiffe://{TRUST_DOMAIN}/ns/shop/sa/{name},DNS:{name}.shop\nbasicConstraints=critical,CA:FALSE\n"
            "keyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth,clientAuth\n")
        openssl("x509", "-req", "-in", csr, "-CA", root, "-CAkey", root_key, "-CAcreateserial", "-days", 1,
                "-extfile", extensions, "-out", at / "cert.pem")
        (at / "both.pem").write_text((at / "cert.pem").read_text() + key.read_text())
        shutil.copy(root, at / "roots.pem")
        for path in at.iterdir():
            path.chmod(0o600)
    return folder
