// Which rows of which expert a tile holds. Rows are sorted by expert, and those of expert e lie from offsets[e] to
// offsets[e + 1]. A dispatch covers rows FIRST_ROW.. and experts FIRST_EXPERT..; both are counted from there.
@group(0) @binding(3) var<storage, read> offsets: array<u32>; // (experts + 1)

struct ExpertRows {
    expert: u32,
    first: u32,
    end: u32,
}

// All rows of an expert.
fn expert_rows(expert: u32) -> ExpertRows {
    let last = FIRST_ROW + ROWS;
    let first = clamp(offsets[FIRST_EXPERT + expert], FIRST_ROW, last) - FIRST_ROW;
    let end = clamp(offsets[FIRST_EXPERT + expert + 1u], FIRST_ROW, last) - FIRST_ROW;
    return ExpertRows(expert, first, end);
}

// From the first row of a tile to the end of its expert's; no row at all for tiles beyond the last. An expert without rows
// has no tile.
fn tile_rows(tile: u32, height: u32) -> ExpertRows {
    var left = tile;
    for (var e = 0u; e < EXPERTS; e++) {
        let rows = expert_rows(e);
        let tiles = (rows.end - rows.first + height - 1u) / height;
        if left < tiles {
            return ExpertRows(e, rows.first + left * height, rows.end);
        }
        left -= tiles;
    }
    return ExpertRows(0u, 0u, 0u);
}
