//! What a key may look like, and how many there may be.

use std::sync::Arc;

use tokio::task::JoinSet;

use super::{Ground, LONG, key, wish};
use crate::domain::lock::PlainKey;

/// Pairs that a database may take for the same, and what breaks statements, lists and lines.
fn odd_endings() -> Vec<String> {
    let odd = [
        "case",
        "CASE",
        "Case",
        "caſe",
        "case ",
        " case",
        "case\t",
        "ca\u{ad}se",
        "ca\0se",
        "ca\u{1}se",
        "e\u{301}",
        "é",
        "e",
        "É",
        "ß",
        "ss",
        "SS",
        "ẞ",
        "æ",
        "ae",
        "ﬁ",
        "fi",
        "i",
        "ı",
        "İ",
        "I",
        "Ω",
        "\u{2126}",
        "カ",
        "か",
        "ｶ",
        "🙂",
        "🙃",
        "日本",
        "日本語",
        "%",
        "%25",
        "%41",
        "A",
        "a",
        "_",
        "-",
        "'",
        "\"",
        "`",
        "\\",
        "\\\\",
        "\n",
        "\r\n",
        ";",
        "--",
        "/*",
        "{}",
        "[]",
        "~",
        "~released",
        "1",
        "01",
        "1.0",
        "NULL",
        "null",
        "\u{200b}",
        "\u{feff}",
        "\u{7f}",
        "\u{10ffff}",
        "#",
        "$",
        ":",
    ];
    let ascii = (0..128_u8).map(|byte| format!("ascii{}", char::from(byte)));
    odd.into_iter().map(str::to_owned).chain(ascii).collect()
}

/// Keys as long as they may be, alike up to their last byte.
fn longest(prefix: &PlainKey) -> Vec<PlainKey> {
    let rest = PlainKey::MAX_BYTES - prefix.as_str().len();
    let fill = |with: &str, last: &str| {
        let filled = with.repeat((rest - last.len()) / with.len());
        PlainKey::try_new(&format!("{prefix}{filled}{last}")).expect("it just fits")
    };
    vec![fill("x", "a"), fill("x", "b"), fill("X", "a"), fill("ü", "a"), fill("ü", "b")]
}

pub(super) async fn keys_differ_byte_by_byte(ground: &Ground) {
    let prefix = key("odd:");
    let with = |end: &String| PlainKey::try_new(&format!("{prefix}{end}")).expect("a key");
    let mut keys: Vec<PlainKey> = odd_endings().iter().map(with).collect();
    keys.extend(longest(&prefix));
    let mut leases = Vec::new();
    for (n, key) in keys.iter().enumerate() {
        leases.push(ground.a().take(&wish(key, &format!("o{n}"), LONG)).await);
    }
    for (n, key) in keys.iter().enumerate() {
        let held = ground.b().inspect(key).await.expect("it is held");
        assert_eq!(held.owner, format!("o{n}"), "{key:?}");
    }
    for lease in &leases {
        assert!(ground.b().release(lease).await, "{:?}", lease.key);
    }
}

pub(super) async fn many_keys_are_held_at_once(ground: &Ground) {
    let keys: Vec<_> = (0..ground.subject.keys()).map(|n| key(&format!("many:{n}"))).collect();
    let mut all = JoinSet::new();
    for (n, key) in keys.iter().enumerate() {
        let (provider, wish) = (ground.of(n), wish(key, "a", LONG));
        all.spawn(async move { provider.take(&wish).await });
    }
    let leases = Arc::new(all.join_all().await);
    assert_eq!(leases.len(), keys.len());
    for key in &keys {
        let held = ground.b().is_locked(key).await;
        assert_eq!(held.as_deref(), Some("a"), "{key}");
    }
    let mut all = JoinSet::new();
    for n in 0..leases.len() {
        let (provider, leases) = (ground.of(n + 1), leases.clone());
        all.spawn(async move { provider.release(&leases[n]).await });
    }
    assert!(all.join_all().await.into_iter().all(|freed| freed));
}
