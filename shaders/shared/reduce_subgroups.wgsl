// Stands in for reduce where all subgroups have SUBGROUP lanes, a power of two that divides THREADS: lanes exchange what they
// have by shuffles, and workgroup memory holds one number for each subgroup. The order of sums is fixed: the same bits every time.
const SUBGROUP: u32 = 8u;

var<workgroup> reduce_scratch: array<f32, THREADS / SUBGROUP>;

fn workgroup_sum(value: f32, thread: u32) -> f32 {
    var sum = value;
    for (var distance = SUBGROUP / 2u; distance > 0u; distance /= 2u) {
        sum += subgroupShuffleXor(sum, distance);
    }
    if THREADS == SUBGROUP {
        return sum;
    }
    workgroupBarrier();
    if thread % SUBGROUP == 0u {
        reduce_scratch[thread / SUBGROUP] = sum;
    }
    workgroupBarrier();
    var total = reduce_scratch[0];
    for (var i = 1u; i < THREADS / SUBGROUP; i++) {
        total += reduce_scratch[i];
    }
    return total;
}

fn workgroup_max(value: f32, thread: u32) -> f32 {
    var most = value;
    for (var distance = SUBGROUP / 2u; distance > 0u; distance /= 2u) {
        most = max(most, subgroupShuffleXor(most, distance));
    }
    if THREADS == SUBGROUP {
        return most;
    }
    workgroupBarrier();
    if thread % SUBGROUP == 0u {
        reduce_scratch[thread / SUBGROUP] = most;
    }
    workgroupBarrier();
    var largest = reduce_scratch[0];
    for (var i = 1u; i < THREADS / SUBGROUP; i++) {
        largest = max(largest, reduce_scratch[i]);
    }
    return largest;
}
