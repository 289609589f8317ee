// Where a matmul's workgroup makes its tile: tiles go in swaths of rows, so that those that run together share what they read.

// Rows of tiles in a swath.
const SWATH: u32 = 8u;

// Row and column of a tile, in tiles.
fn tile_at(tile: u32) -> vec2<u32> {
    let first = tile / (SWATH * TILES_N) * SWATH;
    let rows = min(SWATH, TILES_M - first);
    let within = tile % (SWATH * TILES_N);
    return vec2<u32>(first + within % rows, within / rows);
}
