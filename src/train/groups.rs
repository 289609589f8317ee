//! Which parameters are updated by one kernel: those of a group lie in one buffer, and so do their gradients and each of their
//! moments (llm.c's `params_memory`). Weight decay and learning rate are a group's, as in PyTorch's optimisers.

use crate::graph::{PLACE, Parameter};

/// Most bytes of a group, unless one parameter alone has more: the largest buffer of every WebGPU device. It does not
/// depend on the device, so that whoever shares a store has the same groups.
const MOST_BYTES: usize = 256 << 20;

/// Parameters that are updated together.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// The name of the buffer of their values; those of gradients and moments have the suffixes of parameters' names.
    pub name: String,
    /// Indices in the list of parameters, in the order in which they are stored.
    pub members: Vec<usize>,
    pub decays: bool,
    /// Multiplies the learning rate.
    pub rate: f32,
}

/// The groups of parameters, each with its learning rate as a multiple of the run's.
pub fn groups(parameters: &[Parameter], rates: &[f32]) -> Vec<Group> {
    grouped(parameters, rates, MOST_BYTES)
}

fn grouped(parameters: &[Parameter], rates: &[f32], most_bytes: usize) -> Vec<Group> {
    let mut distinct: Vec<f32> = vec![];
    rates.iter().for_each(|rate| {
        if !distinct.contains(rate) {
            distinct.push(*rate)
        }
    });
    let mut groups: Vec<Group> = vec![];
    for (decays, kind) in [(true, "decayed"), (false, "plain")] {
        let mut count = 0;
        for &rate in &distinct {
            // Bytes of the last group; the first member of a rate begins one.
            let mut size_bytes = usize::MAX;
            let members = parameters.iter().enumerate().filter(|(i, p)| p.decays == decays && rates[*i] == rate);
            for (i, parameter) in members {
                let own = 4 * parameter.len().next_multiple_of(PLACE);
                if size_bytes.saturating_add(own) > most_bytes {
                    groups.push(Group { name: format!("parameters.{kind}.{count}"), members: vec![], decays, rate });
                    (count, size_bytes) = (count + 1, 0);
                }
                groups.last_mut().expect("pushed just above").members.push(i);
                size_bytes += own;
            }
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Depth, Initial};

    fn parameters(dims: &[&[usize]]) -> Vec<Parameter> {
        let parameter = |dims: &&[usize]| Parameter {
            name: String::new(),
            dims: dims.to_vec(),
            initial: Initial::Zeros,
            decays: dims.len() > 1,
            depth: Depth::Top,
            adapter: false,
            quantised: None,
        };
        dims.iter().map(parameter).collect()
    }

    #[test]
    fn groups_hold_every_parameter_once_within_the_most_bytes() {
        let parameters = parameters(&[&[5, 7][..], &[5], &[64, 4], &[100, 100], &[64], &[65], &[2, 2, 2]]);
        let same = [1.0; 7];
        let members =
            |most| grouped(&parameters, &same, most).into_iter().map(|g| (g.name, g.members)).collect::<Vec<_>>();
        let group = |name: &str, members: &[usize]| (format!("parameters.{name}"), members.to_vec());
        assert_eq!(members(1 << 20), [group("decayed.0", &[0, 2, 3, 6]), group("plain.0", &[1, 4, 5])]);
        // 256 and 1024 bytes fit; 40,192 are too many for any; 256, 256 and 512 fit.
        let cut = [("decayed.0", &[0, 2][..]), ("decayed.1", &[3]), ("decayed.2", &[6]), ("plain.0", &[1, 4, 5])];
        assert_eq!(members(1280), cut.map(|(name, members)| group(name, members)));
        assert_eq!(members(1279).len(), 5);
        assert!(grouped(&[], &[], 1).is_empty());
    }

    #[test]
    fn a_group_has_one_learning_rate() {
        let parameters = parameters(&[&[4, 4][..], &[4, 4], &[4], &[4, 4]]);
        let groups = grouped(&parameters, &[0.5, 1.0, 0.5, 0.5], 1 << 20);
        let found: Vec<_> = groups.into_iter().map(|g| (g.name, g.members, g.rate)).collect();
        let name = |name: &str| format!("parameters.{name}");
        let wanted = [("decayed.0", vec![0, 3], 0.5), ("decayed.1", vec![1], 1.0), ("plain.0", vec![2], 0.5)];
        assert_eq!(found, wanted.map(|(n, members, rate)| (name(n), members, rate)));
    }
}
