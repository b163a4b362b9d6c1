def forward(args, run):
    x, w, stat = args
    args.clear()
    h = mm(x, w)
    drop = rand_like(h)
    mul_out(h, drop, out=h); r = h; del h
    keep = rand_like(r)
    rv = view(r)
    y = mul_Tensor(rv, keep); del rv
    m = add_Tensor(y, stat)
    copy_(stat, m); del stat, m
    loss = mm(y, w); del y
    return [loss, x, w, r, drop, keep]


def backward(args, run):
    x, w, r, drop, keep, g = args
    args.clear()
    gy = mm(g, w); del g
    mul_out(gy, keep, out=gy); gr = gy; del gy, keep
    mul_out(gr, r, out=gr); gm = gr; del gr, r
    mul_out(gm, drop, out=gm); gh = gm; del gm, drop
    gw = mm(x, gh); del x
    gx = mm(gh, w); del gh, w
    return [gw, gx]
