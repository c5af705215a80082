//! Configuration: files and variables.

use proptest::{collection::vec, prelude::*, sample::select};

use super::{any_bytes, cases, damaged, pieces, promises};

const PIECES: &[&str] = &[
    "slots: 3\n",
    "lock: {ttl: 20s}\n",
    "lock:\n",
    "  ttl: 20s\n",
    "  renew_every: 1s\n",
    "claim:\n",
    "  include: [a, b]\n",
    "  batch: 5\n",
    "database: {url: 'sqlite:a.db'}\n",
    "name: w\n",
    "http:\n",
    "  deny: ['10.0.0.0/8']\n",
    "  body: {sent: 1MiB}\n",
    "admin: {listen: 'off'}\n",
    "- ",
    "{",
    "}",
    "[",
    "]",
    ": ",
    "~",
    "'",
    "\n",
    "&a ",
    "*a",
    "1e9",
    "-1",
    "null\n",
    "\t",
    "---\n",
];
const GOOD: &str = "name: alpha\nslots: 7\npoll_interval: 250ms\nlock: {ttl: 20s, renew_every: 4s}\n\
                    claim: {batch: 3, include: [a, 'b c']}\nhttp:\n  deny: [Example.COM]\n  body: {sent: 64KiB}\n\
                    retention: {success: 30days}\ndatabase: {url: 'mysql://u:p@h:1/d'}\nlog: {filter: info}\n";

const VARIABLES: &[&str] = &[
    "SLOTS",
    "LOCK__TTL",
    "CLAIM__INCLUDE",
    "DATABASE__URL",
    "DATABASE__PASSWORD_FILE",
    "HTTP__DENY",
    "LOG__FILTER",
    "SHELL__GRACE",
    "SHELL__LIMITS__MEMORY",
    "ADMIN__LISTEN",
    "NAME",
    "STEP__BACKOFF__CAP",
    "NO__SUCH",
    "",
];
const VALUES: &[&str] = &[
    "",
    "3",
    "0",
    "-1",
    "20s",
    "1h",
    "a,b",
    ",",
    "sqlite::memory:",
    "mysql://u:p%40@h/d?x=y",
    "off",
    "10.0.0.0/8",
    "512MiB",
    "99999999999999999999GiB",
    "info,a=b",
    "true",
    "0.0.0.0:1",
    "~",
    "\u{0}",
];

fn text() -> impl Strategy<Value = String> {
    prop_oneof![4 => damaged(GOOD), 3 => pieces(PIECES, 10), 1 => any_bytes()]
}

fn variables() -> impl Strategy<Value = Vec<(&'static str, String)>> {
    let value = prop_oneof![4 => select(VALUES).prop_map(String::from), 1 => any_bytes()];
    vec((select(VARIABLES), value), 0..3)
}

proptest! {
    #![proptest_config(cases(1_500))]

    #[test]
    fn a_configuration_is_refused_in_a_sentence_or_accepted_again_as_it_is_shown(
        text in text(), variables in variables(),
    ) {
        let given: Vec<_> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
        promises::configuration(&text, &given);
    }
}
