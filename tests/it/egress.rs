//! Which servers a step may call, as tables: what is refused by default, what rules change, and
//! what is no rule.

use std::net::IpAddr;

use orchestrator_worker::domain::egress::{
    Own, Owned, Place, Policy, Refusal, Rule, Target, decide,
};
use proptest::prelude::*;

fn rules(texts: &[&str]) -> Vec<Rule> {
    texts.iter().map(|text| text.parse().expect("a rule")).collect()
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// What the defaults, or a policy, say of `address` at port 80.
fn verdict(policy: &Policy, text: &str) -> Result<(), Refusal> {
    let target = Target { name: None, address: address(text), port: 80, is_this_host: false };
    decide(policy, &[], &target)
}

const LINK_LOCAL: &str = "link-local, where clouds serve metadata and credentials";
const METADATA: &str = "a cloud's metadata service";
const POD: &str = "loopback, which in a pod is the pod itself";

#[test]
fn what_is_refused_by_default_is_refused_in_every_notation() {
    let special = |why| Err(Refusal::Special(why));
    let policy = Policy::default();
    for (address, expected) in [
        ("169.254.0.0", special(LINK_LOCAL)),
        ("169.254.169.254", special(LINK_LOCAL)),
        ("169.254.255.255", special(LINK_LOCAL)),
        ("169.253.255.255", Ok(())),
        ("169.255.0.0", Ok(())),
        ("fe80::1", special(LINK_LOCAL)),
        ("febf:ffff::1", special(LINK_LOCAL)),
        ("fec0::1", Ok(())),
        ("100.100.100.200", special(METADATA)),
        ("100.100.100.201", Ok(())),
        ("168.63.129.16", special(METADATA)),
        ("192.0.0.192", special(METADATA)),
        ("fd00:ec2::254", special(METADATA)),
        ("fd00:ec2::23", special(METADATA)),
        ("fd00:ec3::254", Ok(())),
        ("fd20:ce::254", special(METADATA)),
        ("fd20:ce::255", Ok(())),
        // The same within other addresses: mapped, compatible, NAT64, 6to4, Teredo's two.
        ("::ffff:169.254.169.254", special(LINK_LOCAL)),
        ("::169.254.169.254", special(LINK_LOCAL)),
        ("64:ff9b::169.254.169.254", special(LINK_LOCAL)),
        ("2002:a9fe:a9fe::1", special(LINK_LOCAL)),
        ("2001:0:a9fe:a9fe::1", special(LINK_LOCAL)),
        ("2001:0:808:808:0:0:5601:5601", special(LINK_LOCAL)),
        ("64:ff9b::100.100.100.200", special(METADATA)),
        ("64:ff9b::8.8.8.8", Ok(())),
        ("2002:808:808::1", Ok(())),
        (
            "64:ff9b:1::8.8.8.8",
            special("behind a translator of this network's own (64:ff9b:1::/48)"),
        ),
        // No server at all.
        ("0.0.0.0", Err(Refusal::NoServer)),
        ("0.1.2.3", Err(Refusal::NoServer)),
        ("::", Err(Refusal::NoServer)),
        ("::ffff:0.0.0.0", Err(Refusal::NoServer)),
        ("224.0.0.1", Err(Refusal::NoServer)),
        ("239.255.255.255", Err(Refusal::NoServer)),
        ("240.0.0.1", Err(Refusal::NoServer)),
        ("255.255.255.255", Err(Refusal::NoServer)),
        ("ff02::1", Err(Refusal::NoServer)),
        ("64:ff9b::255.255.255.255", Err(Refusal::NoServer)),
        // What steps usually call.
        ("127.0.0.1", Ok(())),
        ("::1", Ok(())),
        ("10.0.0.1", Ok(())),
        ("172.16.0.1", Ok(())),
        ("192.168.1.1", Ok(())),
        ("100.64.0.1", Ok(())),
        ("fd12:3456::1", Ok(())),
        ("8.8.8.8", Ok(())),
        ("2606:4700::1111", Ok(())),
    ] {
        assert_eq!(verdict(&policy, address), expected, "{address}");
    }
}

#[test]
fn in_a_pod_loopback_is_refused_too() {
    let policy = Policy { in_pod: true, ..Policy::default() };
    for address in ["127.0.0.1", "127.255.0.1", "::1", "::ffff:127.0.0.1", "64:ff9b::127.0.0.1"] {
        assert_eq!(verdict(&policy, address), Err(Refusal::Special(POD)), "{address}");
    }
    assert_eq!(verdict(&policy, "10.0.0.1"), Ok(()));
}

#[test]
fn private_networks_are_refused_where_the_operator_says_so() {
    let policy = Policy { deny_private: true, ..Policy::default() };
    for address in [
        "127.0.0.1",
        "::1",
        "10.255.255.255",
        "172.31.0.1",
        "192.168.0.1",
        "100.127.0.1",
        "192.0.0.1",
        "198.19.0.1",
        "fd00::1",
        "fec0::1",
        "::ffff:10.0.0.1",
        "64:ff9b::10.0.0.1",
        "2002:a00:1::",
    ] {
        assert_eq!(verdict(&policy, address), Err(Refusal::Private), "{address}");
    }
    for address in ["172.32.0.1", "100.128.0.1", "8.8.8.8", "2606:4700::1111"] {
        assert_eq!(verdict(&policy, address), Ok(()), "{address}");
    }
}

/// allow, deny, name, address, port, and what is decided.
type Case<'a> = (&'a [&'a str], &'a [&'a str], Option<&'a str>, &'a str, u16, &'a str);

#[test]
fn deny_is_stronger_than_allow_and_a_name_opens_private_networks_only() {
    let table: &[Case] = &[
        // Denied: by name, suffix, address, range, port.
        (&[], &["a.example"], Some("a.example"), "8.8.8.8", 80, "denied by a.example"),
        (&[], &["a.example"], Some("b.a.example"), "8.8.8.8", 80, "may be called"),
        (&[], &["*.example"], Some("b.a.example"), "8.8.8.8", 80, "denied by *.example"),
        (&[], &["*.example"], Some("example"), "8.8.8.8", 80, "may be called"),
        (&[], &["*.example"], Some("anexample"), "8.8.8.8", 80, "may be called"),
        (&[], &["A.EXAMPLE."], Some("a.example"), "8.8.8.8", 80, "denied by a.example"),
        (&[], &["a.example:443"], Some("a.example"), "8.8.8.8", 80, "may be called"),
        (&[], &["a.example:443"], Some("a.example"), "8.8.8.8", 443, "denied by a.example:443"),
        (&[], &["8.8.8.8"], Some("a.example"), "8.8.8.8", 80, "denied by 8.8.8.8"),
        (&[], &["8.8.8.8"], None, "64:ff9b::8.8.8.8", 80, "denied by 8.8.8.8"),
        (&[], &["::ffff:8.8.8.8"], None, "8.8.8.8", 80, "denied by 8.8.8.8"),
        (&[], &["::ffff:8.0.0.0/104"], None, "8.8.8.8", 80, "denied by 8.0.0.0/8"),
        (&[], &["8.0.0.0/8:80"], None, "8.8.8.8", 80, "denied by 8.0.0.0/8:80"),
        (&[], &["[2606::/16]:80"], None, "2606:4700::1", 80, "denied by [2606::/16]:80"),
        (&[], &["2606::/16"], None, "2606:4700::1", 80, "denied by 2606::/16"),
        (&[], &["*:22"], Some("a.example"), "8.8.8.8", 22, "denied by *:22"),
        (&[], &["*:22"], Some("a.example"), "8.8.8.8", 80, "may be called"),
        (&[], &["*"], None, "8.8.8.8", 80, "denied by *"),
        (&["8.8.8.8"], &["8.8.8.8"], None, "8.8.8.8", 80, "denied by 8.8.8.8"),
        (&["10.1.2.3"], &["10.0.0.0/8"], None, "10.1.2.3", 80, "denied by 10.0.0.0/8"),
        // Allowed: an address or a range opens what is refused, at its port.
        (&["169.254.169.254"], &[], None, "169.254.169.254", 80, "may be called"),
        (&["169.254.169.254:80"], &[], None, "169.254.169.254", 80, "may be called"),
        (&["169.254.169.254:81"], &[], None, "169.254.169.254", 80, "special"),
        (&["169.254.0.0/16"], &[], Some("m.example"), "169.254.169.254", 80, "may be called"),
        (&["127.0.0.0/8:8080"], &[], Some("localhost"), "127.0.0.1", 8080, "may be called"),
        (&["169.254.0.0/16"], &[], None, "64:ff9b::169.254.0.1", 80, "may be called"),
        (&["64:ff9b::/96"], &[], None, "64:ff9b::169.254.0.1", 80, "special"),
        (&["10.96.0.1"], &[], None, "10.96.0.1", 443, "may be called"),
        // A name opens private networks, and nothing that is dangerous.
        (&["a.example"], &[], Some("a.example"), "10.0.0.1", 80, "may be called"),
        (&["*.svc"], &[], Some("a.b.svc"), "10.0.0.1", 80, "may be called"),
        (&["*"], &[], Some("a.example"), "10.0.0.1", 80, "may be called"),
        (&["10.0.0.0/8"], &[], Some("a.example"), "10.0.0.1", 80, "may be called"),
        (&["a.example"], &[], Some("b.example"), "10.0.0.1", 80, "private"),
        (&["a.example"], &[], None, "10.0.0.1", 80, "private"),
        (&["a.example"], &[], Some("a.example"), "169.254.169.254", 80, "special"),
        (&["*"], &[], Some("a.example"), "169.254.169.254", 80, "special"),
        (&["*.svc"], &[], Some("kubernetes.default.svc"), "10.96.0.1", 443, "special"),
        // What belongs to the worker, and what is no server, stays refused whatever is allowed.
        (
            &["0.0.0.0/0", "::/0"],
            &[],
            Some("db.example"),
            "10.0.0.5",
            3306,
            "this worker's own database",
        ),
        (
            &["0.0.0.0/0", "::/0"],
            &[],
            Some("alias.example"),
            "10.0.0.5",
            3306,
            "this worker's own database",
        ),
        (
            &["0.0.0.0/0", "::/0"],
            &[],
            Some("db.example"),
            "10.0.0.6",
            3306,
            "this worker's own database",
        ),
        (&["0.0.0.0/0"], &[], None, "10.0.0.5", 80, "may be called"),
        (
            &["0.0.0.0/0", "::/0"],
            &[],
            None,
            "64:ff9b::10.0.0.5",
            3306,
            "this worker's own database",
        ),
        (&["0.0.0.0/0"], &[], None, "127.0.0.1", 9400, "this worker's own admin port"),
        (&["0.0.0.0/0"], &[], None, "127.0.0.1", 9401, "may be called"),
        (&["0.0.0.0/0", "::/0"], &[], None, "0.0.0.0", 80, "no server"),
        (&["::/0"], &[], None, "::", 80, "no server"),
    ];
    let own = [
        Own { what: Owned::AdminPort, place: Place::ThisHost, port: 9400 },
        Own { what: Owned::Database, place: Place::Name("db.example".into()), port: 3306 },
        Own { what: Owned::Database, place: Place::Address(address("10.0.0.5")), port: 3306 },
        Own { what: Owned::ApiServer, place: Place::Address(address("10.96.0.1")), port: 443 },
    ];
    for (allow, deny, name, text, port, expected) in table {
        let policy =
            Policy { allow: rules(allow), deny: rules(deny), deny_private: true, in_pod: true };
        let address = address(text);
        let is_this_host = address.to_canonical().is_loopback();
        let target = Target { name: *name, address, port: *port, is_this_host };
        let said = match decide(&policy, &own, &target) {
            Ok(()) => "may be called".to_owned(),
            Err(Refusal::Denied(rule)) => format!("denied by {rule}"),
            Err(Refusal::NoServer) => "no server".to_owned(),
            Err(Refusal::Own(what)) => what.to_string(),
            Err(Refusal::Special(_)) => "special".to_owned(),
            Err(Refusal::Private) => "private".to_owned(),
        };
        assert_eq!(said, *expected, "{name:?} {text}:{port} with {allow:?} {deny:?}");
    }
}

#[test]
fn each_rule_has_one_form_and_each_other_text_its_error() {
    for (written, form) in [
        ("Example.COM", "example.com"),
        ("example.com.:8080", "example.com:8080"),
        ("*.bücher.example", "*.xn--bcher-kva.example"),
        ("0x7f.1", "127.0.0.1"),
        ("::1", "::1"),
        ("[::1]", "::1"),
        ("[::1]:80", "[::1]:80"),
        ("[fd00::/8]:80", "[fd00::/8]:80"),
        ("10.0.0.0/8:80", "10.0.0.0/8:80"),
        ("*", "*"),
        ("*:22", "*:22"),
    ] {
        let rule: Rule = written.parse().expect("a rule");
        assert_eq!(rule.to_string(), form);
        assert_eq!(form.parse(), Ok(rule));
    }
    for (text, problem) in [
        ("", "is no host; "),
        ("*.", "is no host; "),
        ("a.*", "is no host; "),
        ("*.*.example", "is no host; "),
        ("*.10.0.0.1", "is no host; "),
        ("a b", "is no host; "),
        ("user@host", "is no host; "),
        ("A..", "is no host; "),
        ("a..b", "is no host; "),
        (".a", "is no host; "),
        ("[::1", "is no host; "),
        ("[::1]x", "is no host; "),
        (":80", "is no host; "),
        ("http://a.example", "is a URL; give its host alone, with a port if you like"),
        ("a.example/path", "is no range of addresses; give one such as 10.0.0.0/8 or fd00::/8"),
        ("10.0.0.0/33", "is no range of addresses; give one such as 10.0.0.0/8 or fd00::/8"),
        ("10.0.0.1/8", "has bits beyond its length; write 10.0.0.0/8"),
        ("a.example:0", "has no port between 1 and 65535 behind its colon"),
        ("a.example:65536", "has no port between 1 and 65535 behind its colon"),
        ("a.example:", "has no port between 1 and 65535 behind its colon"),
        ("*:ssh", "has no port between 1 and 65535 behind its colon"),
    ] {
        let error = text.parse::<Rule>().expect_err(text).to_string();
        assert!(error.starts_with(problem), "{text}: {error}");
    }
}

#[test]
fn a_server_of_the_workers_own_is_an_address_or_a_name_in_one_form() {
    let named = |name: &str| Place::Name(name.into());
    for (host, place) in [
        ("10.0.0.1", Place::Address(address("10.0.0.1"))),
        ("::1", Place::Address(address("::1"))),
        ("DB.Example.", named("db.example")),
        ("db", named("db")),
    ] {
        assert_eq!(Place::of_host(host), place);
    }
}

proptest! {
    #[test]
    fn any_text_is_a_rule_that_reads_back_as_itself_or_an_error(
        text in prop_oneof!["[a-z*.:\\[\\]/0-9-]{0,20}", any::<String>()]
    ) {
        if let Ok(rule) = text.parse::<Rule>() {
            prop_assert_eq!(rule.to_string().parse(), Ok(rule));
        }
    }

    #[test]
    fn what_is_refused_of_an_ipv4_address_is_refused_of_each_address_that_holds_it(bits: u32) {
        let [a, b] = [bits >> 16, bits & 0xffff];
        let v4 = core::net::Ipv4Addr::from_bits(bits);
        let policy = Policy { deny_private: true, in_pod: true, ..Policy::default() };
        let plain = verdict(&policy, &v4.to_string());
        let (a, b) = (format!("{a:x}"), format!("{b:x}"));
        for text in [
            format!("::ffff:{v4}"),
            format!("64:ff9b::{v4}"),
            format!("2002:{a}:{b}::"),
            format!("2001:0:{a}:{b}:0:0:f7f7:f7f7"),
        ] {
            prop_assert_eq!(verdict(&policy, &text), plain.clone(), "{}", text);
        }
    }
}
