// row_positions: rows are positions that follow one another, from the step's on.
// use: step
@group(0) @binding(1) var<uniform> step: Step;

fn row_position(row: u32) -> u32 {
    return step.position + row;
}
