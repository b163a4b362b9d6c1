def forward(args, run):
    x, w, stat = args
    args.clear()
    h0 = run.take(0, None); h, drop, r, keep, rv, y, m = h0
    mm_out(x, w, out=h)
    rand_like_out(h, out=drop)
    mul_out(h, drop, out=r); del h
    rand_like_out(r, out=keep)
    mul_out(rv, keep, out=y); del rv
    mul_out(y, stat, out=m)
    copy_(stat, m); del stat, m
    loss = mm(y, w); del y
    return [loss, x, w, r, drop, keep]


def backward(args, run):
    x, w, r, drop, keep, g = args
    args.clear()
    h0 = run.take(0, r); gy, gr, gm, gh = h0
    mm_out(g, w, out=gy); del g
    mul_out(gy, keep, out=gr); del gy, keep
    mul_out(gr, r, out=gm); del gr, r
    mul_out(gm, drop, out=gh); del gm, drop
    gw = mm(x, gh); del x
    gx = mm(gh, w); del gh, w
    run.give(0, h0); del h0
    return [gw, gx]
