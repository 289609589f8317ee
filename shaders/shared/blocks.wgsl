// Blocks on a diagonal: block n has RANK columns, HEIGHTS[n] rows from row STARTS[n] of the whole, and lies in a list of all
// blocks' rows from row OFFSETS[n] on.
const BLOCKS: u32 = 2u;
const RANK: u32 = 2u;
const STARTS: array<f32, BLOCKS> = array(0.0f, 2.0f);
const HEIGHTS: array<f32, BLOCKS> = array(2.0f, 2.0f);
const OFFSETS: array<f32, BLOCKS> = array(0.0f, 2.0f);
