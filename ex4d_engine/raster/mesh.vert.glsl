// The mesh is built here: a fixed ray a vertex times the depth of its pixel, so that a frame uploads
// its depth map and nothing else.
in vec3 ray;
in vec2 pixel;   // column, row
in float pinned; // 0: the pixel's depth counts; else this vertex's constant z
in vec2 place;   // in the plate, (0,0) top left
in float corner; // 0, 1 or 2: see topology.corner_classes

uniform sampler2D depth_map;
uniform sampler2D albedo_map;
uniform mat4 source_to_camera;
uniform vec4 lens;  // 2 fx / W, 2 fy / H, 2 cx / W - 1, 2 cy / H - 1
uniform float skew; // 2 K01 / W
uniform float near;

// one vector only: a software rasteriser spends most of its time on setting up what a face interpolates
#ifdef REFERENCE
out vec4 v_colour; // the vertex's own colour and flag
#else
out vec4 v_place; // in the plate; and two barycentric coordinates within the face
#endif

void main() {
    ivec2 texel = ivec2(pixel);
    float z = pinned > 0.0 ? pinned : texelFetch(depth_map, texel, 0).r;
    vec4 p = source_to_camera * vec4(ray * z, 1.0);
#ifdef REFERENCE
    v_colour = texelFetch(albedo_map, texel, 0);
#else
    v_place = vec4(place, corner == 0.0, corner == 1.0);
#endif
    // y is not flipped: row 0 is the first row read back. z = w - 2 near clips at z = near and never far.
    gl_Position = vec4(lens.x * p.x + skew * p.y + lens.z * p.z, lens.y * p.y + lens.w * p.z, p.z - 2.0 * near, p.z);
}
