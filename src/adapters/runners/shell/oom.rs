//! How often the kernel has killed a process because the memory of this process's cgroup was used up.
//!
//! **Invariant:** what cannot be read is blamed for nothing.

use std::{fs::read_to_string, path::Path};

const MOUNT: &str = "/sys/fs/cgroup";

/// Kills so far; of all scripts of this process, and of whatever else is in its container.
pub fn kills() -> Option<u64> {
    let own = read_to_string("/proc/self/cgroup").unwrap_or_default();
    kills_in(Path::new(MOUNT), &own)
}

/// What to add to the error of a script that SIGKILL ended, or a command of it.
pub fn reason(before: Option<u64>, after: Option<u64>) -> Option<&'static str> {
    (after? > before?).then_some(
        ": meanwhile the kernel killed a process because the container's memory was used up \
         (OOM; its memory limit)",
    )
}

/// In a container the mount begins with the container's own cgroup, whose path may be of no use there.
fn kills_in(mount: &Path, own: &str) -> Option<u64> {
    let in_v1 = mount.join("memory");
    let of = |line: &str, name: &str| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        controllers.split(',').any(|it| it == name).then(|| path.trim_start_matches('/').to_owned())
    };
    let path = |name: &str| own.lines().find_map(|line| of(line, name)).unwrap_or_default();
    [
        in_v1.join(path("memory")).join("memory.oom_control"),
        in_v1.join("memory.oom_control"),
        mount.join(path("")).join("memory.events"),
        mount.join("memory.events"),
    ]
    .iter()
    .find_map(|file| counter(&read_to_string(file).ok()?))
}

fn counter(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use std::fs::{create_dir_all, write};

    use super::*;

    #[test]
    fn both_versions_of_cgroups_are_read_and_none_is_no_answer() {
        let root = tempfile::tempdir().expect("a folder");
        let mount = root.path();
        assert_eq!(kills_in(mount, "0::/\n"), None);
        write(mount.join("memory.events"), "low 0\noom 4\noom_kill 3\noom_group_kill 0\n")
            .expect("v2");
        assert_eq!(kills_in(mount, "0::/kubepods/elsewhere\n"), Some(3));
        create_dir_all(mount.join("a.service")).expect("a cgroup");
        write(mount.join("a.service/memory.events"), "oom_kill 5\n").expect("v2");
        assert_eq!(kills_in(mount, "0::/a.service\n"), Some(5));
        create_dir_all(mount.join("memory/b")).expect("a cgroup");
        let control = "oom_kill_disable 0\nunder_oom 0\noom_kill 7\n";
        write(mount.join("memory/memory.oom_control"), control).expect("v1");
        assert_eq!(kills_in(mount, "4:cpu,memory:/elsewhere\n0::/\n"), Some(7));
        write(mount.join("memory/b/memory.oom_control"), "oom_kill 8\n").expect("v1");
        assert_eq!(kills_in(mount, "4:cpu,memory:/b\n0::/\n"), Some(8));
    }

    #[test]
    fn memory_is_blamed_only_where_the_kernel_has_killed_since() {
        assert_eq!(reason(Some(1), Some(1)), None);
        assert_eq!(reason(None, Some(1)), None);
        assert!(reason(Some(1), Some(2)).is_some_and(|it| it.contains("memory limit")));
    }
}
