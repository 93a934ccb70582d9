"""A GRU from matrices and gates, trained by truncated backpropagation through time to echo a sequence."""

import torch
from torch import nn, optim

torch.set_default_dtype(torch.float32)


class GRUCellByHand(nn.Module):
    def __init__(self, input_size, hidden_size):
        super(GRUCellByHand, self).__init__()
        self.hidden_size = hidden_size
        self.W_r = nn.Parameter(torch.Tensor(hidden_size, input_size))
        self.U_r = nn.Parameter(torch.Tensor(hidden_size, hidden_size))
        self.W_z = nn.Parameter(torch.Tensor(hidden_size, input_size))
        self.U_z = nn.Parameter(torch.Tensor(hidden_size, hidden_size))
        self.W_h = nn.Parameter(torch.Tensor(hidden_size, input_size))
        self.U_h = nn.Parameter(torch.Tensor(hidden_size, hidden_size))
        self.b = nn.ParameterList([nn.Parameter(torch.zeros(hidden_size)) for _ in range(3)])
        self.reset_parameters()

    def reset_parameters(self):
        for name, weight in self.named_parameters():
            if "W" in name:
                nn.init.xavier_uniform_(weight)
            elif "U" in name:
                nn.init.orthogonal_(weight)

    def forward(self, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        r = torch.sigmoid(x.mm(self.W_r.t()) + h.mm(self.U_r.t()) + self.b[0])
        z = torch.sigmoid(x.mm(self.W_z.t()) + h.mm(self.U_z.t()) + self.b[1])
        h_hat = torch.tanh(torch.addmm(self.b[2], x, self.W_h.t()) + (r * h).mm(self.U_h.t()))
        return (1 - z) * h + z * h_hat


class Echo(nn.Module):
    def __init__(self, n_symbols, hidden_size):
        super().__init__()
        self.n_symbols = n_symbols
        self.cell = GRUCellByHand(n_symbols, hidden_size)
        self.readout = nn.Linear(hidden_size, n_symbols)
        nn.init.constant_(self.readout.bias, 0.0)

    def init_hidden(self, batch):
        weight = next(self.parameters())
        return weight.new_zeros(batch, self.cell.hidden_size)

    def forward(self, xs, h):
        outs = []
        for t in range(xs.size(0)):
            onehot = torch.zeros(xs.size(1), self.n_symbols).scatter_(1, xs[t].unsqueeze(1), 1.0)
            h = self.cell(onehot, h)
            outs.append(self.readout(h))
        return torch.stack(outs, dim=0), h


def build():
    torch.manual_seed(0)
    return Echo(n_symbols=4, hidden_size=24)


def train(model, steps=30, T=6, B=8):
    criterion = nn.CrossEntropyLoss(reduction="sum")
    optimizer = optim.RMSprop(model.parameters(), lr=5e-3, momentum=0.5)
    scheduler = optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 10))
    h = model.init_hidden(B)
    last = torch.zeros(B, dtype=torch.long)
    losses = []
    for step in range(steps):
        xs = torch.randint(0, 4, (T, B))
        targets = torch.cat([last.unsqueeze(0), xs[:-1]], 0)
        last = xs[-1].clone()
        h = h.detach()
        out, h = model(xs, h)
        loss = criterion(out.view(-1, 4), targets.view(-1)) / (T * B)
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
        assert norm > 0 and torch.isfinite(norm)
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
    return losses


if __name__ == "__main__":
    print("{:.4f}".format(train(build())[-1]))
