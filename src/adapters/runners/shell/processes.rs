//! Which processes there are, and whose children, as `/proc` tells it.
//!
//! **Invariant:** what it tells may be old by the time it is read; whoever kills by it looks again
//! until nothing is found.

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::Path,
};

use rustix::process::{Pid, Signal, kill_process};

/// One line of `/proc/PID/stat`, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    pub parent: i32,
    pub group: i32,
    pub session: i32,
    /// Dead, but not yet waited for.
    pub ended: bool,
}

impl Stat {
    pub fn of(pid: Pid) -> Option<Self> {
        parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }
}

/// The second field is the program's name in brackets and may hold anything, brackets too.
fn parse_stat(line: &str) -> Option<Stat> {
    let (_, fields) = line.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    let ended = matches!(fields.next()?, "Z" | "X");
    let parent = fields.next()?.parse().ok()?;
    let group = fields.next()?.parse().ok()?;
    let session = fields.next()?.parse().ok()?;
    Some(Stat { parent, group, session, ended })
}

/// Every process that this one can see.
pub fn all() -> Vec<Pid> {
    numbers_in(Path::new("/proc"))
}

/// All below `root`, each after its parent.
pub fn descendants(root: Pid) -> Vec<Pid> {
    first_descendants(root, usize::MAX)
}

/// Whether there are more than `most` below `root`. It looks no further than it must: where they grow
/// faster than they are counted, it still answers.
pub fn are_more_than(most: usize, root: Pid) -> bool {
    first_descendants(root, most).len() > most
}

/// Those of the descendants that are found until there are more than `enough`.
fn first_descendants(root: Pid, enough: usize) -> Vec<Pid> {
    // Present if the kernel was built with CONFIG_PROC_CHILDREN.
    if Path::new("/proc/thread-self/children").exists() {
        below(root, enough, children)
    } else {
        let by_parent = by_parent();
        below(root, enough, |parent| by_parent.get(&parent).cloned().unwrap_or_default())
    }
}

fn below(root: Pid, enough: usize, children: impl Fn(Pid) -> Vec<Pid>) -> Vec<Pid> {
    let mut found = vec![root];
    let mut seen = HashSet::from([root]);
    let mut next = 0;
    while next < found.len() && found.len() - 1 <= enough {
        // One that was given a new parent between two looks would be found twice.
        found.extend(children(found[next]).into_iter().filter(|child| seen.insert(*child)));
        next += 1;
    }
    found.split_off(1)
}

/// Of all its threads: each lists its own.
fn children(parent: Pid) -> Vec<Pid> {
    let tasks = format!("/proc/{parent}/task");
    numbers_in(Path::new(&tasks))
        .into_iter()
        .filter_map(|task| fs::read_to_string(format!("{tasks}/{task}/children")).ok())
        .flat_map(|line| line.split_ascii_whitespace().filter_map(parse_pid).collect::<Vec<_>>())
        .collect()
}

fn by_parent() -> HashMap<Pid, Vec<Pid>> {
    let mut by_parent: HashMap<Pid, Vec<Pid>> = HashMap::new();
    for pid in all() {
        if let Some(parent) = Stat::of(pid).and_then(|stat| Pid::from_raw(stat.parent)) {
            by_parent.entry(parent).or_default().push(pid);
        }
    }
    by_parent
}

fn numbers_in(folder: &Path) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries.flatten().filter_map(|entry| parse_pid(entry.file_name().to_str()?)).collect()
}

fn parse_pid(text: &str) -> Option<Pid> {
    text.parse().ok().filter(|number| *number > 0).and_then(Pid::from_raw)
}

/// Sends `signal` if the process is there and ours; else it is not, and looking again tells.
pub fn send(pid: Pid, signal: Signal) {
    kill_process(pid, signal).ok();
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use rustix::process::getpid;

    use super::*;

    #[test]
    fn a_stat_line_is_read_whatever_the_program_is_called() {
        let stat = |name: &str, state: &str| {
            parse_stat(&format!("12 ({name}) {state} 7 12 5 0 -1 4194304 99 0"))
        };
        let expected = Stat { parent: 7, group: 12, session: 5, ended: false };
        assert_eq!(stat("sh", "S"), Some(expected));
        assert_eq!(stat("a) R 1 (b", "R"), Some(expected));
        assert_eq!(stat("sh", "Z"), Some(Stat { ended: true, ..expected }));
        assert_eq!(parse_stat(""), None);
        assert_eq!(parse_stat("12 (sh) S x"), None);
    }

    #[test]
    fn both_ways_find_a_grandchild_after_its_parent() {
        let mut child = Command::new("sh")
            .args(["-c", "exec 3<&0; sh -c 'echo; read line; true' <&3 & wait"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a child");
        let mut echo = [0];
        std::io::Read::read_exact(child.stdout.as_mut().expect("a pipe"), &mut echo)
            .expect("the grandchild runs");
        let own = parse_pid(&child.id().to_string()).expect("a pid");
        let by_parent = by_parent();
        let scan =
            below(getpid(), usize::MAX, |pid| by_parent.get(&pid).cloned().unwrap_or_default());
        for found in [descendants(getpid()), scan] {
            let place = found.iter().position(|pid| *pid == own).expect("the child");
            let grandchild = below(own, usize::MAX, children)[0];
            assert!(found.iter().skip(place).any(|pid| *pid == grandchild));
        }
        assert!(are_more_than(0, own) && !are_more_than(1, own), "one, the grandchild");
        drop(child.stdin.take());
        child.wait().expect("its end");
    }
}
