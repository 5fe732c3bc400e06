flat in ivec2 v_pixel;
in vec2 v_offset;

uniform sampler2D albedo_map;
uniform float near;
uniform float octaves;
uniform float setback; // dwmesh/edges.py

layout(location = 0) out vec4 colour; // alpha = mask
layout(location = 1) out float depth;

void main() {
    depth = 1.0 / gl_FragCoord.w; // all as in mesh.frag.glsl
    gl_FragDepth = log2(depth * (1.0 + setback * dot(v_offset, v_offset)) / near) / octaves;
    // its back hides, and was not seen
    colour = gl_FrontFacing ? vec4(texelFetch(albedo_map, v_pixel, 0).rgb, 1.0) : vec4(0.0);
}
