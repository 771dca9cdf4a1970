// What every kernel begins with: T is how values are kept; arithmetic is f32 throughout.
#if f16
enable f16;
#end
#if f16
alias T = f16;
alias T4 = vec4<f16>;
#else
alias T = f32;
alias T4 = vec4<f32>;
#end
