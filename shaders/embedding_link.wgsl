// embedding_link: next[i] = the next position after i with the same token, or LEN; the top bit marks positions that no earlier
// one shares its token with. A thread per position. Reference: src/ops/embedding.rs
//
//   ids, next (LEN) u32
// use: index
const LEN: u32 = 256u;

@group(0) @binding(0) var<storage, read> ids: array<u32>;
@group(0) @binding(1) var<storage, read_write> next: array<u32>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let i = workgroup_index(id, count) * 256u + thread;
    if i >= LEN {
        return;
    }
    let token = ids[i];
    var after = i + 1u;
    while after < LEN && ids[min(after, LEN - 1u)] != token {
        after++;
    }
    var before = i;
    while before > 0u && ids[max(before, 1u) - 1u] != token {
        before--;
    }
    next[i] = after | select(0u, 0x80000000u, before == 0u);
}
