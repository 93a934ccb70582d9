"""A character-level LSTM with two layers, a hidden state carried from batch to batch, and sampling with a temperature."""

import os
import string

import torch
import torch.nn as nn
from torch.autograd import Variable
from torch.nn.utils import clip_grad_norm_

all_characters = string.ascii_lowercase + "\n"
n_characters = len(all_characters)


class CharRNN(nn.Module):
    def __init__(self, input_size, hidden_size, output_size, model="lstm", n_layers=1):
        super(CharRNN, self).__init__()
        self.model = model.lower()
        self.hidden_size = hidden_size
        self.n_layers = n_layers
        self.encoder = nn.Embedding(input_size, hidden_size)
        if self.model == "gru":
            self.rnn = nn.GRU(hidden_size, hidden_size, n_layers, batch_first=True)
        else:
            self.rnn = nn.LSTM(hidden_size, hidden_size, n_layers, batch_first=True, dropout=0.0)
        self.decoder = nn.Linear(hidden_size, output_size)
        self.init_weights()

    def init_weights(self):
        initrange = 0.1
        self.encoder.weight.data.uniform_(-initrange, initrange)
        self.decoder.bias.data.fill_(0)
        self.decoder.weight.data.uniform_(-initrange, initrange)
        for name, param in self.rnn.named_parameters():
            if "bias_hh" in name and self.model == "lstm":
                n = param.size(0)
                param.data[n // 4 : n // 2].fill_(1.0)  # the forget gate starts open

    def forward(self, input, hidden):
        encoded = self.encoder(input)
        output, hidden = self.rnn(encoded, hidden)
        return self.decoder(output), hidden

    def init_hidden(self, batch_size):
        weight = next(self.parameters()).data
        h = weight.new(self.n_layers, batch_size, self.hidden_size).zero_()
        if self.model == "lstm":
            return h, torch.zeros_like(h)
        return h


def repackage_hidden(h):
    """Wraps hidden states in new Tensors, to detach them from their history."""
    if isinstance(h, torch.Tensor):
        return h.detach()
    return tuple(repackage_hidden(v) for v in h)


def char_tensor(text):
    tensor = torch.zeros(len(text)).long()
    for c in range(len(text)):
        tensor[c] = all_characters.index(text[c])
    return tensor


def batchify(data, bsz):
    nbatch = data.size(0) // bsz
    return data.narrow(0, 0, nbatch * bsz).view(bsz, -1).contiguous()


def generate(model, prime_str="m", predict_len=10, temperature=0.8):
    hidden = model.init_hidden(1)
    prime_input = Variable(char_tensor(prime_str).unsqueeze(0))
    predicted = prime_str
    with torch.no_grad():
        for p in range(predict_len):
            output, hidden = model(prime_input, hidden)
            output_dist = output[0, -1].data.view(-1).div(temperature).exp()
            top_i = torch.multinomial(output_dist, 1)[0]
            predicted += all_characters[top_i]
            prime_input = top_i.view(1, 1)
    return predicted


def build():
    torch.manual_seed(3)
    return CharRNN(n_characters, 24, n_characters, "lstm", n_layers=2)


def train(model, epochs=4, bptt=8):
    with open(os.path.join(os.path.dirname(__file__), "names.txt")) as f:
        data = batchify(char_tensor(f.read()), 6)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, "min", factor=0.5, patience=0)
    criterion = nn.CrossEntropyLoss()
    losses = []
    for epoch in range(epochs):
        model.train()
        total_loss = 0.0
        hidden = model.init_hidden(data.size(0))
        for i in range(0, data.size(1) - 1, bptt):
            seq_len = min(bptt, data.size(1) - 1 - i)
            x, y = data[:, i : i + seq_len], data[:, i + 1 : i + 1 + seq_len]
            hidden = repackage_hidden(hidden)
            model.zero_grad()
            output, hidden = model(x, hidden)
            loss = criterion(output.reshape(-1, n_characters), y.reshape(-1))
            loss.backward()
            clip_grad_norm_(model.parameters(), 0.25)
            optimizer.step()
            total_loss += loss.data
            losses.append(loss.item())
        scheduler.step(total_loss)
    print(generate(model))
    return losses


if __name__ == "__main__":
    print(train(build())[-1])
