// Buckets of relative positions: SIDE of them for keys at or before the query, as many again for those after it where BOTH.
const KEYS: u32 = 4u;
const DISTANCES: u32 = 7u;
const SIDE: u32 = 2u;
const BOTH: bool = false;
// The smallest distance of each bucket of a side.
const STARTS: array<f32, SIDE> = array(0.0f, 1.0f);
