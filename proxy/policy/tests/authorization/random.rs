//! Random policies and questions out of small vocabularies, so that they meet often.

use super::ask::{Ask, What};
use serde_json::{Value, json};
use weft_proto::v1;

/// SplitMix64: the same seed, the same policies and questions.
pub struct Draw(u64);

impl Draw {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(n).unwrap()).unwrap()
    }

    fn percent(&mut self, share: usize) -> bool {
        self.below(100) < share
    }

    fn one<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }

    /// Mostly none, else one to three.
    fn some(&mut self, share: usize, of: &[&str]) -> Vec<String> {
        if !self.percent(share) {
            return Vec::new();
        }
        (0..=self.below(3)).map(|_| self.one(of).to_owned()).collect()
    }
}

const IDENTITIES: &[&str] = &[
    "spiffe://weft.local/ns/shop/sa/cart",
    "spiffe://weft.local/ns/shop/sa/web",
    "spiffe://weft.local/ns/bank/sa/cart",
    "spiffe://other.local/ns/shop/sa/cart",
    "spiffe://weft.local/ns/shop-2/sa/cart",
];
const IDENTITY_PATTERNS: &[&str] = &[
    "spiffe://weft.local/ns/shop/sa/cart",
    "spiffe://weft.local/ns/bank/sa/cart",
    "spiffe://weft.local/ns/shop/*",
    "spiffe://weft.local/*",
    "*/sa/cart",
    "*",
];
const NAMESPACES: &[&str] = &["shop", "bank", "shop*", "*-2", "*"];
const ACCOUNTS: &[&str] = &["shop/cart", "bank/cart", "shop/web"];
const BLOCKS: &[&str] = &[
    "192.0.2.0/24",
    "192.0.2.7",
    "0.0.0.0/0",
    "198.51.100.0/25",
    "2001:db8::/32",
    "::/0",
    "::ffff:192.0.2.0/121",
    "128.0.0.0/1",
];
const ADDRESSES: &[&str] =
    &["192.0.2.7", "192.0.2.200", "198.51.100.130", "::ffff:192.0.2.7", "2001:db8::7", "2001:db9::7", "10.0.0.1"];
const PRINCIPALS: &[&str] = &["https://id.test/ann", "https://id.test/*", "*/ann", "*", "https://other.test/bob"];
const HOSTS: &[&str] =
    &["orders.shop", "Orders.Shop:80", "orders.shop:*", "*.shop", "orders.*", "*", "*:8080", "*.test:80"];
const HOST_VALUES: &[&str] = &[
    "orders.shop",
    "ORDERS.shop",
    "orders.shop:80",
    "orders.shop.:80",
    "orders.shop.",
    "a.test:80",
    "a.shop:8080",
    "shop",
];
const METHODS: &[&str] = &["GET", "POST", "P*", "*T", "*", "DELETE"];
const METHOD_VALUES: &[&str] = &["GET", "POST", "PUT", "DELETE"];
const PATHS: &[&str] = &[
    "/",
    "/admin",
    "/admin*",
    "/admin/*",
    "/public/*",
    "*.json",
    "*/x",
    "*",
    "/a/{*}",
    "/a/{**}",
    "/{*}/x",
    "/a/{**}/x",
    "/admin/x",
];
const PATH_VALUES: &[&str] = &[
    "/",
    "/admin",
    "/admin/x",
    "/public/x",
    "/public/a.json",
    "/a",
    "/a/",
    "/a/b",
    "/a/b/x",
    "/a/x",
    "//admin",
    "/public/../admin",
    "/%61dmin/x",
    "/public/..;/admin",
    "/public\\..\\admin",
    "/./a/b",
    "/a//x",
    "/a/b;v=1/x",
    "/x%2fx",
    "/administrator",
    "/a.json;x",
    "/%zz/x",
    "/a/%2e%2e/admin",
];
const KEYS: &[&str] = &[
    "source.ip",
    "source.namespace",
    "source.principal",
    "destination.port",
    "connection.sni",
    "request.headers[x-a]",
    "request.headers[X-B]",
    "request.auth.principal",
    "request.auth.audiences",
    "request.auth.presenter",
    "request.auth.claims[groups]",
    "request.auth.claims[realm][roles]",
    "request.auth.claims[scope]",
    "request.auth.claims[level]",
];
const TEXTS: &[&str] = &["admin", "adm*", "*min", "*", "read", "3", "true", "web"];
const PORTS: &[u32] = &[80, 8080, 443];

pub fn port(draw: &mut Draw) -> u16 {
    draw.one(&[80, 8080])
}

pub fn policies(draw: &mut Draw) -> Vec<v1::Authorization> {
    (0..=draw.below(4))
        .map(|i| v1::Authorization {
            name: format!("shop/p{i}"),
            action: draw.one(&[v1::Action::Allow, v1::Action::Allow, v1::Action::Deny, v1::Action::Audit]).into(),
            rules: (0..draw.below(4)).map(|_| rule(draw)).collect(),
        })
        .collect()
}

fn rule(draw: &mut Draw) -> v1::AuthorizationRule {
    let many = |draw: &mut Draw| if draw.percent(45) { 0 } else { 1 + draw.below(2) };
    v1::AuthorizationRule {
        name: String::new(),
        from: (0..many(draw)).map(|_| source(draw)).collect(),
        to: (0..many(draw)).map(|_| operation(draw)).collect(),
        when: if draw.percent(35) { (0..=draw.below(2)).map(|_| condition(draw)).collect() } else { Vec::new() },
    }
}

fn source(draw: &mut Draw) -> v1::AuthorizationSource {
    v1::AuthorizationSource {
        identities: draw.some(25, IDENTITY_PATTERNS),
        not_identities: draw.some(10, IDENTITY_PATTERNS),
        namespaces: draw.some(20, NAMESPACES),
        not_namespaces: draw.some(10, NAMESPACES),
        ip_blocks: draw.some(15, BLOCKS),
        not_ip_blocks: draw.some(10, BLOCKS),
        request_principals: draw.some(10, PRINCIPALS),
        not_request_principals: draw.some(10, PRINCIPALS),
        service_accounts: draw.some(10, ACCOUNTS),
        not_service_accounts: draw.some(10, ACCOUNTS),
    }
}

fn operation(draw: &mut Draw) -> v1::AuthorizationOperation {
    let ports =
        |draw: &mut Draw, share| if draw.percent(share) { vec![draw.one(PORTS), draw.one(PORTS)] } else { Vec::new() };
    v1::AuthorizationOperation {
        hosts: draw.some(15, HOSTS),
        not_hosts: draw.some(10, HOSTS),
        ports: ports(draw, 15),
        not_ports: ports(draw, 10),
        methods: draw.some(25, METHODS),
        not_methods: draw.some(10, METHODS),
        paths: draw.some(40, PATHS),
        not_paths: draw.some(20, PATHS),
    }
}

fn condition(draw: &mut Draw) -> v1::AuthorizationCondition {
    let key = draw.one(KEYS);
    let values = match key {
        "source.ip" => BLOCKS,
        "source.namespace" => NAMESPACES,
        "source.principal" => IDENTITY_PATTERNS,
        "destination.port" => &["80", "8080"],
        "connection.sni" => &["80.orders.shop.svc", "80.*", "*.svc", "*"],
        "request.auth.principal" => PRINCIPALS,
        _ => TEXTS,
    };
    let mut condition = v1::AuthorizationCondition {
        key: key.into(),
        values: draw.some(70, values),
        not_values: draw.some(30, values),
    };
    if condition.values.is_empty() && condition.not_values.is_empty() {
        condition.values.push(values[0].to_owned());
    }
    condition
}

pub fn ask(draw: &mut Draw) -> Ask {
    let maybe = |draw: &mut Draw, share, of: &[&str]| draw.percent(share).then(|| draw.one(of).to_owned());
    Ask {
        identity: maybe(draw, 85, IDENTITIES),
        address: maybe(draw, 90, ADDRESSES).map(|text| text.parse().unwrap()),
        server_name: maybe(draw, 60, &["80.orders.shop.svc", "80.other.svc", "443.orders"]),
        what: match draw.below(10) {
            0 => What::Opaque,
            1 => What::Connection,
            _ => request(draw),
        },
    }
}

fn request(draw: &mut Draw) -> What {
    let mut headers = Vec::new();
    for (name, share, values) in
        [("host", 90, HOST_VALUES), ("x-a", 40, TEXT_VALUES), ("x-a", 15, TEXT_VALUES), ("x-b", 30, TEXT_VALUES)]
    {
        if draw.percent(share) {
            headers.push((name.to_owned(), draw.one(values).to_owned()));
        }
    }
    let query = if draw.percent(20) { "?a=/admin" } else { "" };
    What::Request {
        method: draw.one(METHOD_VALUES).into(),
        path: format!("{}{query}", draw.one(PATH_VALUES)),
        headers,
        claims: draw.percent(50).then(|| claims(draw)),
    }
}

const TEXT_VALUES: &[&str] = &["admin", "administrator", "read", "  admin ", "web", "", "read admin", "3"];

fn claims(draw: &mut Draw) -> Value {
    let mut claims = json!({});
    let any = |draw: &mut Draw| -> Value {
        match draw.below(6) {
            0 => json!(draw.one(TEXT_VALUES)),
            1 => json!([draw.one(TEXT_VALUES), draw.one(TEXT_VALUES)]),
            2 => json!(3),
            3 => json!(true),
            4 => json!({"roles": [draw.one(TEXT_VALUES)], "admin": 1}),
            _ => json!("read admin"),
        }
    };
    for name in ["aud", "azp", "groups", "scope", "level", "realm"] {
        if draw.percent(50) {
            claims[name] = any(draw);
        }
    }
    if draw.percent(85) {
        claims["iss"] = json!(draw.one(&["https://id.test", "https://other.test", ""]));
    }
    if draw.percent(85) {
        claims["sub"] = json!(draw.one(&["ann", "bob"]));
    }
    claims
}
