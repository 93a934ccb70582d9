"""Back-propagation on one page: a Tensor, the graph behind it, its gradient, and what freezing does to the graph."""

import tinylora as torch


def loss(x, W, V):
    """A network of two layers, and the mean of its squared outputs."""
    hidden = torch.tanh(x @ W)  # (4, 3) (3, 5) -> (4, 5)
    return ((hidden @ V) ** 2).mean()  # (4, 5) (5, 2) -> (4, 2) -> ()


def show(node, leaves, indent=""):
    """Print the graph below a node, an edge a line: the vjp that backward() calls, and the leaf it leads to, if any."""
    for below, vjp in node.edges:
        op, _, name = vjp.__qualname__.replace("<lambda>", "d_x").partition(".<locals>.")
        print(f"{indent}└─ {op}.{name}{'  ->  ' + leaves[below] if below in leaves else ''}")
        show(below, leaves, indent + "   ")


def reached(node):
    """The leaves below a node: where gradients will arrive."""
    return {node} if node.leaf else set().union(*(reached(below) for below, _ in node.edges))


torch.manual_seed(0)
x = torch.randn(4, 3, dtype=torch.float64)
W = torch.randn(3, 5, dtype=torch.float64).requires_grad_()
V = torch.randn(5, 2, dtype=torch.float64).requires_grad_()

L = loss(x, W, V)
print(f"loss {L.item():.6f}, and the graph behind it:")
show(L.node, {W.node: "W", V.node: "V"})
assert reached(L.node) == {W.node, V.node}  # x asked for no gradient: no edge leads to it

L.backward()
print("\nthe gradient, and a finite difference beside it:")
h = 1e-6
for i, j in [(0, 0), (1, 3), (2, 4)]:
    nudge = torch.zeros_like(W)
    nudge[i, j] = h
    with torch.no_grad():
        slope = (loss(x, W + nudge, V) - loss(x, W - nudge, V)).item() / (2 * h)
    exact = W.grad[i, j].item()
    print(f"dL/dW[{i}, {j}]  {exact:+.8f}  {slope:+.8f}")
    assert abs(exact - slope) < 1e-8

W.requires_grad = False  # frozen: W has no node any more, so there is nothing for an edge to lead to
L = loss(x, W, V)
print("\nthe graph with W frozen:")
show(L.node, {V.node: "V"})
assert reached(L.node) == {V.node}

old = W.grad
L.backward()
assert W.grad is old  # nothing arrived
print("\nW's edge is gone, and so is every step that only led there: tanh's backward is never run.")
