// A card at the place of a pixel (dwmesh/edges.py): its four corners, one instance a card.
in ivec2 pixel; // column, row

uniform sampler2D depth_map;
uniform mat4 source_to_camera;
uniform vec3 corner_ray, right_ray, down_ray; // z = 1: of the plate's top left corner, and from pixel to pixel
uniform float card_pixels;
uniform vec4 lens; // as in mesh.vert.glsl
uniform float skew;
uniform float near;

flat out ivec2 v_pixel;
out vec2 v_offset; // from the card's centre, in pixels of the plate

void main() {
    v_offset = card_pixels * (vec2(gl_VertexID & 1, gl_VertexID >> 1) - 0.5);
    vec2 place = vec2(pixel) + 0.5 + v_offset;
    vec3 ray = corner_ray + place.x * right_ray + place.y * down_ray;
    vec4 p = source_to_camera * vec4(ray * texelFetch(depth_map, pixel, 0).r, 1.0);
    v_pixel = pixel;
    gl_Position = vec4(lens.x * p.x + skew * p.y + lens.z * p.z, lens.y * p.y + lens.w * p.z, p.z - 2.0 * near, p.z);
}
