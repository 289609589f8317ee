// Linear index of a workgroup in a dispatch that was folded into two dimensions (host side: Limits::fold).
fn workgroup_index(id: vec3<u32>, count: vec3<u32>) -> u32 {
    return id.x + id.y * count.x;
}
