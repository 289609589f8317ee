//! Which parameters are updated by one kernel: those of a group lie in one buffer, and so do their gradients and each of their
//! moments (llm.c's `params_memory`). Weight decay is a group's, as in PyTorch's optimisers.

use crate::graph::PLACE;

/// Most bytes of a group, unless one parameter alone has more: what every WebGPU device allows a buffer to be. It does not
/// depend on the device, so that whoever shares a store has the same groups.
const MOST_BYTES: usize = 256 << 20;

/// Parameters that are updated together.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// The name of the buffer of their values; those of gradients and moments add what a parameter's name does.
    pub name: String,
    /// Indices in the list of parameters, in the order in which they are stored.
    pub members: Vec<usize>,
    /// Matrices are decayed; biases and norms are not.
    pub decays: bool,
}

/// The groups of parameters (name, shape).
pub fn groups(parameters: &[(String, Vec<usize>)]) -> Vec<Group> {
    grouped(parameters, MOST_BYTES)
}

fn grouped(parameters: &[(String, Vec<usize>)], most_bytes: usize) -> Vec<Group> {
    let mut groups: Vec<Group> = vec![];
    for (decays, kind) in [(true, "decayed"), (false, "plain")] {
        let first = groups.len();
        let mut size_bytes = 0;
        for (i, (_, dims)) in parameters.iter().enumerate().filter(|(_, (_, dims))| (dims.len() >= 2) == decays) {
            let own = 4 * dims.iter().product::<usize>().next_multiple_of(PLACE);
            if groups.len() == first || size_bytes + own > most_bytes {
                let name = format!("parameters.{kind}.{}", groups.len() - first);
                groups.push(Group { name, members: vec![], decays });
                size_bytes = 0;
            }
            groups.last_mut().expect("pushed just above").members.push(i);
            size_bytes += own;
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_hold_every_parameter_once_within_the_most_bytes() {
        let dims = [&[5, 7][..], &[5], &[64, 4], &[100, 100], &[64], &[65], &[2, 2, 2]];
        let parameters: Vec<_> = dims.iter().map(|dims| (String::new(), dims.to_vec())).collect();
        let members = |most| grouped(&parameters, most).into_iter().map(|g| (g.name, g.members)).collect::<Vec<_>>();
        let group = |name: &str, members: &[usize]| (format!("parameters.{name}"), members.to_vec());
        assert_eq!(members(1 << 20), [group("decayed.0", &[0, 2, 3, 6]), group("plain.0", &[1, 4, 5])]);
        // 256 and 1024 bytes fit; 40,192 are too many for any; 256, 256 and 512 fit.
        let cut = [("decayed.0", &[0, 2][..]), ("decayed.1", &[3]), ("decayed.2", &[6]), ("plain.0", &[1, 4, 5])];
        assert_eq!(members(1280), cut.map(|(name, members)| group(name, members)));
        assert_eq!(members(1279).len(), 5);
        assert!(grouped(&[], 1).is_empty());
    }
}
