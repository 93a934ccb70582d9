"""Handwritten digits, made up: an MLP with an argument parser, data loaders, a train and a test function."""

from __future__ import print_function

import argparse
import os
import tempfile

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
import torch.optim as optim
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader, TensorDataset, random_split


class Net(nn.Module):
    def __init__(self):
        super(Net, self).__init__()
        self.flatten = nn.Flatten()
        self.layers = nn.Sequential(
            nn.Linear(8 * 8, 48),
            nn.ReLU(inplace=True),
            nn.Dropout(0.0),
            nn.Linear(48, 32),
            nn.LeakyReLU(0.1),
            nn.Linear(32, 10),
        )
        for m in self.modules():
            if isinstance(m, nn.Linear):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
                nn.init.constant_(m.bias, 0)

    def forward(self, x):
        x = self.flatten(x)
        x = self.layers(x)
        output = F.log_softmax(x, dim=1)
        return output


def digits(n):
    """Seven segments on 8 × 8 pixels, shifted and with noise."""
    rng = np.random.RandomState(0)
    segments = ["abcdef", "bc", "abdeg", "abcdg", "bcfg", "acdfg", "acdefg", "abc", "abcdefg", "abcdfg"]
    boxes = dict(
        a=(0, 1, 1, 4), b=(1, 3, 4, 5), c=(4, 6, 4, 5), d=(6, 7, 1, 4), e=(4, 6, 0, 1), f=(1, 3, 0, 1), g=(3, 4, 1, 4)
    )
    images, labels = np.zeros((n, 1, 8, 8), dtype=np.float32), rng.randint(0, 10, n)
    for image, label in zip(images, labels):
        dx, dy = rng.randint(0, 3), rng.randint(0, 2)
        for s in segments[label]:
            top, bottom, left, right = boxes[s]
            image[0, top + dy : bottom + dy, left + dx : right + dx] = 1.0
    images += rng.normal(0, 0.1, images.shape).astype(np.float32)
    return torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64))


def train_epoch(args, model, device, train_loader, optimizer, epoch, losses):
    model.train()
    for batch_idx, (data, target) in enumerate(train_loader):
        data, target = data.to(device), target.to(device)
        optimizer.zero_grad()
        output = model(data)
        loss = F.nll_loss(output, target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if batch_idx % args.log_interval == 0:
            print(
                "Train Epoch: {} [{}/{} ({:.0f}%)]\tLoss: {:.6f}".format(
                    epoch,
                    batch_idx * len(data),
                    len(train_loader.dataset),
                    100.0 * batch_idx / len(train_loader),
                    loss.item(),
                )
            )


def test(model, device, test_loader):
    model.eval()
    test_loss = 0
    correct = 0
    with torch.no_grad():
        for data, target in test_loader:
            data, target = data.to(device), target.to(device)
            output = model(data)
            test_loss += F.nll_loss(output, target, reduction="sum").item()
            pred = output.argmax(dim=1, keepdim=True)
            correct += pred.eq(target.view_as(pred)).sum().item()
            _, predicted = torch.max(output.data, 1)
            assert (predicted == pred.squeeze()).all()
    test_loss /= len(test_loader.dataset)
    print("Test set: Average loss: {:.4f}, Accuracy: {}/{}".format(test_loss, correct, len(test_loader.dataset)))
    return test_loss


def parse_args(arguments=None):
    parser = argparse.ArgumentParser(description="MNIST-style example")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--gamma", type=float, default=0.7)
    parser.add_argument("--no-cuda", action="store_true", default=False)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--log-interval", type=int, default=10)
    return parser.parse_args(arguments)


def build():
    torch.manual_seed(1)
    return Net()


def train(model, arguments=()):
    args = parse_args(arguments)
    use_cuda = not args.no_cuda and torch.cuda.is_available()
    mps = torch.backends.mps.is_available()
    device = torch.device("cuda" if use_cuda else "mps" if mps else "cpu")
    train_kwargs = {"batch_size": args.batch_size, "shuffle": True}
    if use_cuda:
        train_kwargs.update({"num_workers": 1, "pin_memory": True})
    dataset = TensorDataset(*digits(320))
    train_set, test_set = random_split(dataset, [256, 64], generator=torch.Generator().manual_seed(args.seed))
    train_loader = DataLoader(train_set, **train_kwargs)
    test_loader = DataLoader(test_set, batch_size=64)
    model = model.to(device)
    optimizer = optim.SGD(model.parameters(), lr=args.lr, momentum=0.9, nesterov=True, weight_decay=1e-4)
    scheduler = StepLR(optimizer, step_size=1, gamma=args.gamma)
    losses = []
    for epoch in range(1, args.epochs + 1):
        train_epoch(args, model, device, train_loader, optimizer, epoch, losses)
        losses.append(test(model, device, test_loader))
        scheduler.step()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "mnist_mlp.pt")
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": args.epochs}, path)
        checkpoint = torch.load(path, map_location=device)
    fresh = Net()
    fresh.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    losses.append(test(fresh, device, test_loader))
    return losses


if __name__ == "__main__":
    import sys

    print(train(build(), sys.argv[1:])[-1])
