// ceiling_cooperative: products of cooperative matrices without memory: the peak of matrix units.
//
//   x (TILE * TILE)    y (LEN): for each thread an element of the workgroup's sums
//
// A subgroup keeps 4 x 4 sums, and adds the same product X X to each of them ROUNDS times. Reference: src/ops/ceiling.rs
enable f16;
enable wgpu_cooperative_matrix;

const TILE: u32 = 16u;
const LEN: u32 = 256u;
const ROUNDS: u32 = 64u;
const THREADS: u32 = 128u;

alias A_MATRIX = coop_mat16x16<f16, A>;
alias B_MATRIX = coop_mat16x16<f16, B>;
alias SUM_MATRIX = coop_mat16x16<f32, C>;

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;

var<workgroup> slice: array<f16, TILE * TILE>;
// A place for each subgroup, which has 8 lanes at least.
var<workgroup> result: array<f32, THREADS / 8u * TILE * TILE>;

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
    @builtin(subgroup_id) subgroup: u32,
) {
    for (var i = thread; i < TILE * TILE; i += THREADS) {
        slice[i] = f16(x[i]);
    }
    workgroupBarrier();
    var a: array<A_MATRIX, 4>;
    var b: array<B_MATRIX, 4>;
    var sums: array<array<SUM_MATRIX, 4>, 4>;
    for (var i = 0u; i < 4u; i++) {
        a[i] = coopLoadT<A_MATRIX>(&slice[0], TILE);
        b[i] = coopLoadT<B_MATRIX>(&slice[0], TILE);
    }
    for (var round = 0u; round < ROUNDS; round++) {
        for (var i = 0u; i < 4u; i++) {
            for (var j = 0u; j < 4u; j++) {
                sums[i][j] = coopMultiplyAdd(a[i], b[j], sums[i][j]);
            }
        }
    }
    // All sums are equal; each is asked for, so that none is left out.
    var total = 0.0;
    for (var i = 0u; i < 16u; i++) {
        coopStoreT(sums[i / 4u][i % 4u], &result[subgroup * TILE * TILE], TILE);
        workgroupBarrier();
        total += result[thread];
        workgroupBarrier();
    }
    let at = (id.x + id.y * count.x) * THREADS + thread;
    if at < LEN {
        y[at] = total;
    }
}
