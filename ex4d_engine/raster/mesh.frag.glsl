const float AT_VERTEX = 1e-3; // barycentric; as in raster/__init__.py
#ifdef REFERENCE
in vec4 v_colour;
#else
in vec4 v_place;
#endif

uniform sampler2D albedo_map;
uniform sampler2D seen_map; // a texel a grid face, in face order
uniform int seen_width;
uniform int grid_faces;
uniform float near;
uniform float octaves; // log2(farthest / near)
#ifdef WALLS
uniform sampler2D ends_map; // the depth at which a cell's walls end; dwmesh/edges.py
uniform vec4 source_z; // of a point of the picture at z = 1, (column, row, 1): z in the source camera; and its origin's
#endif

layout(location = 0) out vec4 colour; // alpha = mask
layout(location = 1) out float depth;

#ifdef WALLS
float wall_ends() {
    ivec2 plate = textureSize(ends_map, 0) - 1;
    return texelFetch(ends_map, clamp(ivec2(floor(v_place.xy * vec2(plate) + 0.5)), ivec2(0), plate), 0).r;
}
#endif

void main() {
    // logarithmic depth: the same relative precision at every distance, for any scene scale
    depth = 1.0 / gl_FragCoord.w;
    gl_FragDepth = log2(depth / near) / octaves;
#ifdef REFERENCE
    // interpolated towards black at flagged vertices, kept above 125 of 255: the reference's choice
    colour = v_colour.a > 125.0 / 255.0 ? vec4(v_colour.rgb, 1.0) : vec4(0.0);
#else
    bool seen = false, at_vertex = false;
    if (gl_PrimitiveID < grid_faces) {
        // a vertex is a pixel of the plate and so was seen, whichever face a rasteriser hits it in
        at_vertex = max(max(v_place.z, v_place.w), 1.0 - v_place.z - v_place.w) > 1.0 - AT_VERTEX;
        seen = at_vertex
            || texelFetch(seen_map, ivec2(gl_PrimitiveID % seen_width, gl_PrimitiveID / seen_width), 0).r > 0.5;
#ifdef WALLS
        // past a wall's end the back of what was seen is in view: it hides what is behind, and is unknown itself
        bool from_behind = gl_FrontFacing; // and not its opposite: the picture is drawn upside down
        if (seen && !at_vertex && from_behind) {
            colour = vec4(0.0);
            return;
        }
#endif
    }
    if (!seen) {
#ifdef WALLS
        float z = dot(source_z, vec4(gl_FragCoord.xy * depth, depth, 1.0));
        if (gl_PrimitiveID < grid_faces && z > wall_ends()) discard;
#endif
        colour = vec4(0.0);
        return;
    }
    // hardware filters with 8 bits of position: at a pixel's own vertex its colour is taken as it is
    ivec2 size = textureSize(albedo_map, 0);
    ivec2 texel = clamp(ivec2(floor(v_place.xy * vec2(size))), ivec2(0), size - 1);
    colour = vec4(at_vertex ? texelFetch(albedo_map, texel, 0).rgb : texture(albedo_map, v_place.xy).rgb, 1.0);
#endif
}
